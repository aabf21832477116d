"""`helios clients`, run as it is typed."""

import asyncio
import json

import pytest
from click.testing import CliRunner

import helios_smart_auth
import helios_sqlite
from helios_core.cli.commands import app
from helios_core.testing import CommandSuite
from helios_smart_auth.signing_keys import SigningKeys
from helios_sqlite import SQLiteSettings
from tests.plugins.smart_auth.issuing import EC, RSA, Server, public


class TestClientsCommand(CommandSuite):
    arguments = ("list",)

    @pytest.fixture
    def extension(self):
        return helios_smart_auth.helios_command()


class Shell:
    def __init__(self, folder):
        self.folder = folder

    def run(self, *arguments, code=0):
        result = CliRunner().invoke(app, ["clients", *arguments])
        assert result.exit_code == code, result.output
        return result.output

    def table(self, *arguments):
        """Return the cells of a table that is printed where there is no terminal."""
        return [line.split("\t") for line in self.run(*arguments).splitlines()]

    def file(self, name, content):
        path = self.folder / name
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
        return str(path)

    def with_store(self, work):
        async def run():
            settings = SQLiteSettings(data_dir=str(self.folder / "data"))
            async with helios_sqlite.open_job_store(settings) as store:
                return await work(store)

        return asyncio.run(run())


@pytest.fixture
def shell(tmp_path, monkeypatch):
    monkeypatch.setenv("HFS_AUTH_PROVIDER", "smart")
    monkeypatch.setenv("HFS_AUTH_ENABLED", "true")
    monkeypatch.setenv("HFS_DATA_DIR", str(tmp_path / "data"))
    return Shell(tmp_path)


@pytest.fixture
def keys(shell):
    return shell.file("public.json", {"keys": [public(EC), public(RSA)]})


def test_a_client_is_registered_shown_and_removed(shell, keys):
    assert "no clients" in shell.run("list")

    options = ("--scope", "system/Patient.rs system/Group.r", "--scope", "system/*.r")
    shell.run(
        "add", "lab", "--jwks", keys, *options, "--tenant", "north", "--group", "a", "--group", "b"
    )

    assert shell.table("list") == [
        ["client", "state", "keys", "tenant", "groups", "scopes"],
        [
            "lab",
            "enabled",
            "2 keys",
            "north",
            "a,b",
            "system/Patient.rs system/Group.r system/*.r",
        ],
    ]
    shown = json.loads(shell.run("show", "lab"))
    assert shown["scopes"] == ["system/Patient.rs", "system/Group.r", "system/*.r"]
    assert [key["kid"] for key in shown["keys"]] == ["ec", "rsa"]
    again = shell.run("add", "lab", "--jwks", keys, *options, code=1)
    assert again.startswith("helios: client lab is already registered")
    shell.run("disable", "lab")
    assert shell.table("list")[1][:2] == ["lab", "disabled"]
    shell.run("enable", "lab")
    assert shell.table("list")[1][:2] == ["lab", "enabled"]
    shell.run("remove", "lab")
    for command in ("show", "disable", "enable", "remove"):
        assert "there is no client lab" in shell.run(command, "lab", code=1)


def test_the_keys_of_a_client_are_replaced(shell, keys):
    urls = ("--jwks-url", "https://a.example/jwks", "--jwks-url", "https://b.example/jwks")
    shell.run("add", "lab", *urls, "--scope", "system/*.rs")
    assert shell.table("list")[1][2] == "2 URLs"

    shell.run("rotate", "lab", "--jwks", keys)

    shown = json.loads(shell.run("show", "lab"))
    assert "jwks_urls" not in shown
    assert len(shown["keys"]) == 2


@pytest.mark.parametrize("before", [b"", b"Bag Attributes\n    localKeyID: 01\n"])
@pytest.mark.parametrize("kind", ["EC", "RSA"])
def test_a_public_key_may_be_pem_and_is_named_by_its_thumbprint(shell, kind, before):
    key = {"EC": EC, "RSA": RSA}[kind]
    path = shell.file("public.pem", before + key.as_pem(private=False))

    shell.run("add", "lab", "--jwks", path, "--scope", "system/*.rs")

    [stored] = json.loads(shell.run("show", "lab"))["keys"]
    assert stored["kid"] == key.thumbprint()


REFUSED = {
    "a private key": ({"keys": [EC.as_dict(private=True)]}, "private"),
    "a private RSA key": (RSA.as_dict(private=True), "private"),
    "a private key as PEM": (EC.as_pem(private=True), "private"),
    "a shared secret": ({"keys": [{"kty": "oct", "k": "c2VjcmV0", "kid": "a"}]}, "secret"),
    "no kid": ({"keys": [{**public(EC), "kid": None}]}, "kid"),
    "two of one kid": ({"keys": [public(EC), public(RSA, kid="ec")]}, "same kid"),
    "no keys": ({"keys": []}, "no key"),
    "no set": ({"a": 1}, "Key Set"),
    "neither JSON nor PEM": (b"\xff\x00", "neither JSON (a JWK set or one JWK"),
    "a key of SSH": (b"ssh-rsa AAAA me@example", "nor PEM (which has a line"),
    "a list of keys": ([public(EC)], "not a JSON object"),
    "broken JSON": (b'{"keys": [', "not a JSON object"),
    "broken PEM": (b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "PEM"),
    "another curve": ({"keys": [public(EC) | {"crv": "P-256"}]}, "curve"),
    "a key for encryption": ({"keys": [public(EC, use="enc")]}, "use"),
    "a key of another algorithm": ({"keys": [public(RSA, alg="RS256")]}, "alg"),
    "a point off the curve": ({"keys": [public(EC) | {"x": public(EC)["y"]}]}, "not a valid key"),
    "an exponent of 1": ({"keys": [public(RSA) | {"e": "AQ"}]}, "exponent"),
    "a huge number": ({"keys": [public(RSA) | {"n": "_" * 9000}]}, "not a valid key"),
    "a huge exponent": ({"keys": [public(RSA) | {"e": "_" * 300}]}, "exponent"),
    "another type of key": ({"keys": [{"kty": "OKP", "kid": "a"}]}, "neither"),
    "a large file": (b" " * 300_000, "more than"),
}


@pytest.mark.parametrize(("content", "reason"), REFUSED.values(), ids=REFUSED)
def test_a_key_that_cannot_be_used_is_not_registered(shell, content, reason):
    path = shell.file("keys", content)

    assert reason in shell.run("add", "lab", "--jwks", path, "--scope", "system/*.rs", code=2)
    assert "no clients" in shell.run("list")


@pytest.mark.parametrize(
    "arguments",
    [
        ("bad id", "--scope", "system/*.rs"),
        ("../lab", "--scope", "system/*.rs"),
        ("lab", "--scope", "user/*.rs"),
        ("lab", "--scope", "system/Patient.sr"),
        ("lab", "--scope", "system/Patients.rs"),
        ("lab", "--scope", " "),
        ("lab", "--scope", "system/*.rs", "--tenant", "a..b"),
        ("lab", "--scope", "system/*.rs", "--group", "Group/a"),
        ("lab", "--scope", "system/*.rs", "--group", ""),
        ("lab", "--scope", "system/*.rs", *[f"--group={n:064}" for n in range(65)]),
        ("lab",),
        ("lab", "--scope", "system/*.rs", "--jwks-url", "https://a.example/"),
    ],
    ids=[
        "a space",
        "a path",
        "a user's scope",
        "wrong order",
        "an unknown type",
        "no word",
        "a tenant",
        "a reference to a group",
        "no group",
        "very many groups",
        "no scope",
        "both keys",
    ],
)
def test_what_is_no_registration_is_refused(shell, keys, arguments):
    shell.run("add", *arguments, "--jwks", keys, code=2)


@pytest.mark.parametrize(
    ("search", "reason"),
    [
        ("nonsense=a", "no search parameter nonsense"),
        ("date=soon", "a date"),
        ("subject.name=x", "depends on other resources"),
        ("_has:Provenance:target:agent=x", "depends on other resources"),
    ],
)
def test_a_scope_whose_search_means_nothing_is_not_registered(shell, keys, search, reason):
    scope = f"system/Observation.rs?{search}"

    printed = shell.run("add", "lab", "--jwks", keys, "--scope", scope, code=2)

    assert reason in " ".join(printed.split())


def test_a_scope_may_have_a_search_of_one_version_of_fhir_only(shell, keys):
    scopes = ("system/Observation.rs?category=laboratory", "system/Transport.rs?status=completed")

    shell.run("add", "lab", "--jwks", keys, "--scope", " ".join(scopes))


@pytest.mark.parametrize("url", ["http://a.example/", "http://127.0.0.1/", "a", "https://u:p@a/"])
def test_an_address_of_keys_without_tls_is_refused(shell, url):
    shell.run("add", "lab", "--jwks-url", url, "--scope", "system/*.rs", code=2)


def test_a_client_needs_keys(shell):
    shell.run("add", "lab", "--scope", "system/*.rs", code=2)


def test_http_on_this_machine_can_be_allowed(shell, monkeypatch):
    monkeypatch.setenv("HFS_SMART_AUTH_JWKS_ALLOW_LOOPBACK_HTTP", "true")

    shell.run("add", "lab", "--jwks-url", "http://127.0.0.1/", "--scope", "system/*.rs")


def test_signing_keys_are_listed_and_rotated(shell):
    [headings, [first, *_]] = shell.table("keys", "list")

    _, *rows = shell.table("keys", "rotate")

    assert headings == ["key", "created", "retired"]
    assert [kid == first for kid, _, _ in rows] == [False, True]
    assert [bool(retired) for _, _, retired in rows] == [False, True]
    assert len(shell.table("keys", "rotate", "--revoke")) == 2
    ring = shell.with_store(lambda store: SigningKeys(store).ring())
    assert ring.keys[0].kid == shell.table("keys", "list")[1][0]


def test_what_is_registered_counts_at_once(shell, keys):
    shell.run("add", "lab", "--jwks", keys, "--scope", "system/*.rs")

    assert shell.with_store(lambda store: Server(store).token())


def test_the_command_is_there_with_its_provider_only(shell, monkeypatch):
    assert "clients" in CliRunner().invoke(app, ["--help"]).output
    monkeypatch.delenv("HFS_AUTH_PROVIDER")
    assert "clients" not in CliRunner().invoke(app, ["--help"]).output
    monkeypatch.setenv("HFS_PLUGINS", "smart_auth")
    assert "clients" in CliRunner().invoke(app, ["--help"]).output
