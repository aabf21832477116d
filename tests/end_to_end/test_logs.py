"""No resource, patient id, search value or token is ever logged."""

import json
from urllib.parse import parse_qsl, urlsplit

import httpx
import pytest

from tests.inferno.kit import Kit, Target
from tests.pace import wait_for_end
from tests.processes import Site
from tests.secured import embedded

CANARY = "canary-8d1f"


@pytest.fixture
def site(tmp_path):
    site = Site(tmp_path, HFS_LOG_LEVEL="debug")
    yield site
    site.end()


def test_at_debug_level_nothing_of_the_data_is_logged(site, tmp_path):
    file = tmp_path / "in.ndjson"
    file.write_text(
        f'{{"resourceType":"Patient","id":"{CANARY}-0","name":[{{"text":"{CANARY}"}}]}}\n'
        f'{{"resourceType":"Patient","id":"{CANARY}-1","name":[{{"text":"{CANARY}"}}\n'
    )
    load = site.start("load", str(file))
    assert wait_for_end(load.process) == 1
    server, client = site.serve()
    patient = {"resourceType": "Patient", "id": f"{CANARY}-2", "name": [{"text": CANARY}]}
    client.put(patient)
    client.put(patient | {"active": True})
    client.http.headers["Authorization"] = f"Bearer {CANARY}"
    client.http.get(f"/Patient?_id={CANARY}-2")
    client.http.get(f"/Patient?name={CANARY}")
    client.http.get(f"/Patient/{CANARY}-none")
    client.http.put(f"/Patient/{CANARY}-3", content=b'{"resourceType":"Patient","id":"%s' % b"x")
    client.http.put("/Patient/x", json=patient)
    client.http.delete(f"/Patient/{CANARY}-2")
    body = {
        "resourceType": "Parameters",
        "parameter": [{"name": "patient", "valueReference": {"reference": f"Patient/{CANARY}-9"}}],
    }
    prefer = {"Prefer": "respond-async"}
    assert client.http.post("/Patient/$export", json=body, headers=prefer).status_code == 400
    assert len(client.export()) == 1
    server.stop()

    for process in site.processes:
        assert process.output()
        assert CANARY not in process.output()


def test_an_export_can_be_followed_by_its_events(site):
    server, client = site.serve()
    client.put({"resourceType": "Patient", "id": "p1"})
    client.export()
    server.stop()

    happened = [event["event"] for event in server.events()]
    steps = ["job.accepted", "shard.claimed", "shard.completed", "job.ended"]
    assert [event for event in happened if event in steps] == steps


def test_no_token_assertion_or_signed_link_is_logged(tmp_path, certificates, bucket):
    """Good ones and wrong ones, at debug level, with every log of server, worker and client."""
    source = tmp_path / "source.ndjson"
    source.write_text('{"resourceType":"Patient","id":"a"}\n')
    options = {"HFS_LOG_LEVEL": "debug", **bucket.settings}
    with embedded(tmp_path, certificates, source, **options) as server:
        site, key = server.site, server.keys["ES384"]
        kit = Kit(Target(server.base, "", server.client_id, key), authority=certificates.authority)
        secrets = []
        for change in (
            {},
            {"scope": f"system/{CANARY}.rs"},
            {"grant_type": CANARY},
            {"client_assertion": f"eyJ{CANARY}.{CANARY}.{CANARY}"},
            {"client_assertion_type": CANARY},
        ):
            response = kit.request_token(**change)
            sent = dict(parse_qsl(response.request.content.decode()))
            secrets += [sent["client_assertion"], response.json().get("access_token")]
        token = kit.bearer["Authorization"].partition(" ")[2]
        head, claims, signature = token.split(".")
        for wrong in (
            *(CANARY, f"{token}x", f"{head}.{claims}.", f"{head}.{claims}.{CANARY}", "e30.e30."),
            *(f"{head}.{signature}.{claims}", f"{token}, {token}", f"{CANARY}.{CANARY}.{CANARY}"),
        ):
            for path in ("/Patient", "/$export", f"/Patient?access_token={token}"):
                headers = {"Authorization": f"Bearer {wrong}", "Prefer": "respond-async"}
                refused = kit.http.get(f"{server.base}{path}", headers=headers)
                assert refused.status_code == httpx.codes.UNAUTHORIZED
                assert CANARY not in refused.text
        manifest = kit.export("system").status.json()
        [link] = [item["url"] for item in manifest["output"]]
        assert kit.http.get(link).status_code == httpx.codes.OK
        kit.http.get(f"{server.base}/export-file/{CANARY}/{CANARY}?{urlsplit(link).query}")
        private = tmp_path / "private.json"
        private.write_text(json.dumps(key.as_dict(private=True)))
        arguments = ["--client-id", server.client_id, "--key", str(private)]
        site.run("export", server.base, "--to", str(tmp_path / "to"), *arguments)
        kit.close()

        signatures = [dict(parse_qsl(urlsplit(link).query))["X-Amz-Signature"]]
        parts = [part for secret in secrets if secret for part in secret.split(".")]
        printed = [process.output() for process in site.processes]
        assert "grant.refused" in "".join(printed)
        assert "token.refused" in "".join(printed)
        for secret in (*parts, *token.split("."), *signatures, key.as_dict(private=True)["d"]):
            assert len(secret) > 8
            assert not any(secret in text for text in printed), secret
        for pattern in (CANARY, "eyJ", "X-Amz-Signature", "Bearer ey"):
            assert not any(pattern in text for text in printed), pattern
