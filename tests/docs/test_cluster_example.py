"""The examples for Compose and Kubernetes are valid, fit together, and their settings start."""

import json
import re
from importlib.resources import files
from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest
import yaml

from helios_core.cli.commands import app
from helios_core.config import selection as plugins
from tests.processes import Site

EXAMPLE = Path(__file__).parents[2] / "docs/examples/cluster"
COMPOSE = yaml.safe_load((EXAMPLE / "compose.yaml").read_text())
SERVICES = COMPOSE["services"]
OURS = {name: each for name, each in SERVICES.items() if each["image"].startswith("helios:")}
OBJECTS = list(yaml.safe_load_all((EXAMPLE / "kubernetes.yaml").read_text()))
WORKLOADS = [each for each in OBJECTS if each["kind"] in ("Job", "Deployment")]
COMMANDS = set(app.commands)


def settings_of_compose(service):
    """The settings as Compose gives them, with a password in its place."""
    environment = OURS[service]["environment"]
    return {
        k: re.sub(r"\$\{HELIOS_PASSWORD:\?[^}]*\}", "secret", v) for k, v in environment.items()
    }


def settings_of_kubernetes():
    sources = [each for each in OBJECTS if each["kind"] in ("ConfigMap", "Secret")]
    return {k: v for each in sources for k, v in (each.get("data") or each["stringData"]).items()}


def seconds(duration):
    return int(duration.removesuffix("s"))


def pod(workload):
    return workload["spec"]["template"]["spec"]


def test_the_compose_file_is_one():
    schema = files("check_jsonschema") / "builtin_schemas/vendor/compose-spec.json"

    jsonschema.validate(COMPOSE, json.loads(schema.read_text()))


@pytest.mark.parametrize(
    "each", OBJECTS, ids=lambda each: f"{each['kind']}-{each['metadata']['name']}"
)
def test_every_object_is_one_that_kubernetes_knows(each):
    kubernetes_validate.validate(each, "1.37", strict=True)


def test_there_are_two_servers_and_four_workers():
    replicas = {name: OURS[name]["deploy"]["replicas"] for name in ("server", "worker")}
    pods = {each["metadata"]["name"]: each["spec"].get("replicas") for each in WORKLOADS}

    assert replicas == {"server": 2, "worker": 4}
    assert (pods["helios-server"], pods["helios-worker"]) == (2, 4)


@pytest.mark.parametrize("service", OURS)
def test_the_settings_of_every_service_go_together(service):
    assert plugins.configure(settings_of_compose(service)).settings.cluster


def test_the_settings_of_the_pods_go_together():
    assert plugins.configure(settings_of_kubernetes()).settings.cluster


def test_the_settings_of_the_guide_go_together():
    guide = EXAMPLE.parents[1] / "how-to/cluster.md"
    (block,) = re.findall(r"^```sh\n(.*?)^```$", guide.read_text(), re.MULTILINE | re.DOTALL)
    settings = dict(re.findall(r"^export (\w+)=(.+)$", block, re.MULTILINE))

    assert plugins.configure(settings).settings.cluster


def test_every_command_exists():
    arguments = [pod(each)["containers"][0]["args"] for each in WORKLOADS]

    assert {each["command"][0] for each in OURS.values()} == {"serve", "worker", "migrate"}
    assert {each[0] for each in arguments} == {"serve", "worker", "migrate"}
    assert {"serve", "worker", "migrate"} <= COMMANDS


def test_every_process_has_longer_to_stop_than_it_takes():
    allowed = float(settings_of_compose("server")["HFS_WORKER_SHUTDOWN_TIMEOUT"])
    before = float(settings_of_kubernetes()["HFS_WORKER_SHUTDOWN_TIMEOUT"])

    assert all(seconds(OURS[name]["stop_grace_period"]) > allowed for name in OURS)
    for each in WORKLOADS:
        if each["kind"] == "Deployment":
            hook = pod(each)["containers"][0].get("lifecycle", {}).get("preStop", {})
            pause = hook.get("sleep", {}).get("seconds", 0)
            assert pod(each)["terminationGracePeriodSeconds"] > before + pause


def test_the_ports_fit():
    port = settings_of_compose("server")["HFS_SERVER_PORT"]
    proxy = (EXAMPLE / "Caddyfile").read_text()
    server = next(each for each in WORKLOADS if each["metadata"]["name"] == "helios-server")
    (container,) = pod(server)["containers"]
    (service,) = (each for each in OBJECTS if each["kind"] == "Service")

    assert f"port {port}" in proxy
    assert SERVICES["proxy"]["ports"][0].endswith(re.search(r"^(:\d+) \{", proxy, re.MULTILINE)[1])
    assert f":{port}/" in OURS["server"]["healthcheck"]["test"][-1]
    assert settings_of_kubernetes()["HFS_SERVER_PORT"] == port
    assert [each["containerPort"] for each in container["ports"]] == [int(port)]
    assert service["spec"]["ports"][0]["targetPort"] == container["ports"][0]["name"]


def test_what_selects_pods_finds_them():
    labels = [each["spec"]["template"]["metadata"]["labels"] for each in WORKLOADS]
    kinds = ("Service", "PodDisruptionBudget", "Deployment")
    for each in (each for each in OBJECTS if each["kind"] in kinds):
        selector = each["spec"]["selector"]
        wanted = selector.get("matchLabels", selector)
        assert sum(wanted.items() <= found.items() for found in labels) == 1


def test_what_the_services_wait_for_is_there():
    for each in SERVICES.values():
        for name, how in each.get("depends_on", {}).items():
            if how["condition"] == "service_healthy":
                assert "healthcheck" in SERVICES[name]
            else:
                assert SERVICES[name]["restart"] == "no"


def test_the_image_has_the_plugins_that_are_selected_and_needs_nothing_else():
    root = EXAMPLE.parents[2]
    kept = re.findall(r"^!(.+)$", (EXAMPLE / "Dockerfile.dockerignore").read_text(), re.MULTILINE)
    installed = set(re.findall(r"\./plugins/(\w+)", (EXAMPLE / "Dockerfile").read_text()))
    selected = plugins.selected_names(plugins.configure(settings_of_kubernetes()).settings)

    assert selected <= installed
    assert all((root / path).exists() for path in kept)
    assert (EXAMPLE / OURS["server"]["build"]["context"]).resolve() == root
    assert (root / OURS["server"]["build"]["dockerfile"]).exists()


def test_the_settings_of_the_example_serve_and_export(tmp_path, postgres_url, minio_bucket):
    site = Site(tmp_path)
    site.settings |= settings_of_compose("server") | {
        "HFS_SERVER_HOST": "127.0.0.1",
        "HFS_SERVER_PORT": "0",
        "HFS_DATABASE_URL": postgres_url,
        "HFS_BULK_EXPORT_S3_ENDPOINT": minio_bucket.endpoint,
        "HFS_S3_PUBLIC_ENDPOINT": minio_bucket.endpoint,
        "HFS_BULK_EXPORT_S3_BUCKET": minio_bucket.name,
        "HFS_BULK_EXPORT_S3_ACCESS_KEY_ID": minio_bucket.access_key,
        "HFS_BULK_EXPORT_S3_SECRET_ACCESS_KEY": minio_bucket.secret_key,
    }
    try:
        site.run("migrate")
        _, client = site.serve()
        site.start("worker")
        assert client.http.get("/_readiness").status_code == 200
        assert client.http.get("/_liveness").status_code == 200
        client.put({"resourceType": "Patient", "id": "one"})

        assert [each["id"] for each in client.export()] == ["one"]
    finally:
        site.end()


def test_the_guide_shows_the_newest_schema():
    guide = (EXAMPLE.parents[1] / "how-to/cluster.md").read_text()
    [newest] = re.findall(r"^postgres: .* went from version 0 to (\d+)$", guide, re.MULTILINE)

    migrations = EXAMPLE.parents[2] / "plugins/postgres/helios_postgres/migrations"
    assert int(newest) == len(list(migrations.glob("*.sql")))
