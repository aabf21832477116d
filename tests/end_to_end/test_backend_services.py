"""`helios export` as a client of SMART Backend Services, against both providers, over TLS."""

import json
import time
from contextlib import ExitStack

import httpx
import pytest

from helios_core.cli.demo.population import write_population
from tests.inferno.kit import Kit, Target
from tests.pace import Deadline, wait_for_end
from tests.secured import behind_tls, by_keycloak, embedded
from tests.services import a_bucket

PATIENTS = 20
TOKEN_SECONDS = 10
MOST_SECONDS = 120
SMALL = {
    "HFS_BULK_EXPORT_DISABLE_LOCAL_WORKER": "true",
    "HFS_BULK_EXPORT_PART_BYTES": "20000",
    "HFS_BULK_EXPORT_LEASE_DURATION": "2",
    "HFS_BULK_EXPORT_HEARTBEAT_INTERVAL": "0.5",
}
"""Many shards of little work, so that a kill meets one in hand, for workers of their own."""


@pytest.fixture(scope="module")
def population(tmp_path_factory):
    """A file of resources, and each of them by type and id."""
    folder = tmp_path_factory.mktemp("population")
    write_population(folder, patients=PATIENTS, seed=7)
    text = b"".join(path.read_bytes() for path in sorted(folder.iterdir()))
    source = tmp_path_factory.mktemp("source") / "population.ndjson"
    source.write_bytes(text)
    return source, by_name(text.splitlines())


def by_name(lines):
    """Return resources by type and id, with their numbers as they are written."""
    found = {}
    for line in lines:
        resource = json.loads(line, parse_float=str)
        resource.pop("meta", None)  # the server's
        name = f"{resource['resourceType']}/{resource['id']}"
        assert name not in found
        found[name] = resource
    return found


@pytest.fixture
def secured(request, tmp_path, certificates, population):
    with ExitStack() as stack:
        if request.param == "embedded":
            ttl = str(TOKEN_SECONDS)
            opened = embedded(
                tmp_path, certificates, population[0], HFS_SMART_AUTH_TOKEN_TTL=ttl, **SMALL
            )
        else:
            postgres = request.getfixturevalue("postgres_server")
            bucket = stack.enter_context(a_bucket(request.getfixturevalue("minio_server")))
            opened = by_keycloak(
                tmp_path,
                certificates,
                population[0],
                request.getfixturevalue("keycloak_server"),
                attributes={"access.token.lifespan": str(TOKEN_SECONDS)},
                HFS_STORAGE_BACKEND="postgres",
                HFS_DATABASE_URL=stack.enter_context(postgres.database()),
                **stack.enter_context(behind_tls(certificates, bucket)),
                **SMALL,
            )
        yield stack.enter_context(opened)


def until(found):
    deadline = Deadline(MOST_SECONDS)
    while not (result := found()):
        assert not deadline.has_passed(), "it never came"
        time.sleep(0.05)
    return result


def events(process, name):
    return [event for event in process.events() if event["event"] == name]


@pytest.mark.parametrize(
    ("secured", "algorithm"),
    [
        ("embedded", "ES384"),
        ("keycloak", "RS384"),
        pytest.param("embedded", "RS384", marks=pytest.mark.in_turn),
        pytest.param("keycloak", "ES384", marks=pytest.mark.in_turn),
    ],
    indirect=["secured"],
)
def test_an_export_outlives_its_tokens_and_its_workers(
    secured, algorithm, population, certificates, tmp_path
):
    key = tmp_path / "private.json"
    key.write_text(json.dumps(secured.keys[algorithm].as_dict(private=True)))
    target = tmp_path / "exported"
    arguments = ["--client-id", secured.client_id, "--key", str(key)]
    [server] = [process for process in secured.site.processes if "serve" in process.log.name]
    client = secured.site.start("export", secured.base, "--to", str(target), *arguments)

    until(lambda: events(server, "job.accepted") or client.process.poll() is not None)
    kit = Kit(
        Target(secured.base, "", secured.client_id, secured.keys[algorithm], secured.issued_at),
        authority=certificates.authority,
    )
    # This token is newer than the first one of the export.
    patients, bearer = f"{secured.base}/Patient?_count=1", kit.bearer
    assert kit.http.get(patients, headers=bearer).status_code == httpx.codes.OK
    until(lambda: kit.http.get(patients, headers=bearer).status_code == httpx.codes.UNAUTHORIZED)
    kit.close()
    first = secured.site.start("worker")
    until(lambda: events(first, "shard.completed"))
    first.kill()
    assert client.process.poll() is None, client.output()
    second = secured.site.start("worker")

    assert wait_for_end(client.process, MOST_SECONDS) == 0, client.output()

    lines = [line for path in target.rglob("*.ndjson") for line in path.read_bytes().splitlines()]
    assert by_name(lines) == population[1]
    assert events(second, "shard.completed")
    for process in secured.site.processes:
        assert "eyJ" not in process.output()
    state = b"".join(path.read_bytes() for path in target.rglob("*") if path.is_file())
    assert secured.keys[algorithm].as_dict(private=True)["d"].encode() not in state
    assert b"eyJ" not in state
