"""The guide to clients, walked command by command."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.test_walks import pattern, significant
from tests.processes import HELIOS, READY, Site

GUIDE = Path(__file__).parents[2] / "docs/how-to/let-clients-in.md"
PATIENT = {"resourceType": "Patient", "id": "ada"}

pytestmark = pytest.mark.process


SCRIPT = Path(__file__).parents[2] / "docs/examples/keycloak/get_token.py"


def shown_commands():
    """The commands of the first block with what they print, in order."""
    block = re.search(r"```console\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    commands = [part.split("\n", 1) for part in block[1].split("$ ")[1:]]
    return [(command, shown.splitlines()) for command, shown in commands]


@pytest.fixture
def site(tmp_path, unused_tcp_port):
    (export, _), *_ = shown_commands()
    settings = dict(word.split("=", 1) for word in shlex.split(export)[1:])
    address = settings["HFS_BASE_URL"].replace("8080", str(unused_tcp_port))
    settings |= {"HFS_BASE_URL": address, "HFS_SERVER_PORT": str(unused_tcp_port)}
    site = Site(tmp_path, **settings)
    site.address = address
    yield site
    site.end()


@pytest.fixture
def shell(site, tmp_path):
    """Runs a command of the guide in a folder of its own, and returns its code and output."""

    inherited = {k: v for k, v in os.environ.items() if not k.startswith("HFS_")}

    def run(command):
        program, *arguments = shlex.split(command.replace("http://127.0.0.1:8080", site.address))
        done = subprocess.run(
            [str(HELIOS) if program == "helios" else program, *arguments],
            cwd=tmp_path,
            env=inherited | site.settings,
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr

    return run


def test_the_commands_lead_from_a_key_to_files_and_out_again(site, shell, tmp_path):
    """B2-SEC-03: at a server that nobody has configured any further."""
    (tmp_path / "patients.ndjson").write_text(json.dumps(PATIENT))
    _, *commands, (again, refused) = shown_commands()
    assert len(commands) <= 9
    for command, shown in commands:
        if command == "helios serve &":
            site.start("serve").wait_for(READY)
            continue
        code, output = shell(command)
        assert code == 0, (command, output)
        printed = significant(output)
        assert all(any(map(pattern(line).fullmatch, printed)) for line in shown if line != "…")

    [line] = (tmp_path / "export" / "Patient-1-1.ndjson").read_text().splitlines()
    assert json.loads(line)["id"] == PATIENT["id"]
    code, output = shell(again)
    assert code == 1
    assert refused == [output.splitlines()[-1].replace(site.address, "http://127.0.0.1:8080")]
    log = "".join(process.output() for process in site.processes)
    assert "token.issued" in log
    assert "grant.refused" in log
    assert not re.search(r"eyJ[A-Za-z0-9_-]{10,}", log), "no token and no assertion is logged"


@pytest.mark.parametrize(
    "kind", ["EC -pkeyopt ec_paramgen_curve:P-384", "RSA -pkeyopt rsa_keygen_bits:2048"]
)
def test_the_script_gets_a_token_that_the_server_accepts(site, shell, tmp_path, kind):
    (tmp_path / "patients.ndjson").write_text(json.dumps(PATIENT))
    (line,) = re.findall(r"get_token\.py (.*)\)\n", GUIDE.read_text())
    (request,) = re.findall(r"\$ curl .*http://127\.0\.0\.1:8080(/.*)\n", GUIDE.read_text())
    for command in (
        "helios migrate",
        f"openssl genpkey -algorithm {kind} -out private.pem",
        "openssl pkey -in private.pem -pubout -out public.pem",
        "helios clients add research --jwks public.pem --scope 'system/*.rs'",
        "helios load patients.ndjson",
    ):
        assert shell(command)[0] == 0, command
    _, client = site.serve()

    code, token = shell(f"{sys.executable} {SCRIPT} {line}")

    assert code == 0, token
    response = client.http.get(request, headers={"Authorization": f"Bearer {token.strip()}"})
    assert (response.status_code, response.json()["id"]) == (200, PATIENT["id"])


def test_the_script_says_where_no_token_is_to_be_had(shell, unused_tcp_port):
    address = f"http://127.0.0.1:{unused_tcp_port}"

    code, output = shell(f"{sys.executable} {SCRIPT} {address} research private.pem")

    assert (code, output.count("\n")) == (1, 1)
    assert f"{address} names no token endpoint" in output
