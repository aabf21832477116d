"""TLS of the server: versions, a renewed certificate, handshakes that never come."""

import asyncio
import os
import signal
import socket
import ssl
from contextlib import suppress
from datetime import timedelta

import httpx
import pytest
import trustme
from cryptography.hazmat.primitives import serialization
from structlog.testing import capture_logs

from helios_core.config.settings import Settings
from helios_core.errors import ConfigurationError
from helios_core.server import serve as serving
from helios_core.server.tls import reloader, server_context
from tests.processes import Site


@pytest.fixture
def authority():
    return trustme.CA()


@pytest.fixture
def issue(authority, tmp_path):
    """Write a certificate of the authority and its key over the earlier ones."""

    def issue(name="127.0.0.1"):
        certificate = authority.issue_cert(name, "localhost")
        chain = b"".join(blob.bytes() for blob in certificate.cert_chain_pems)
        (tmp_path / "cert.pem").write_bytes(chain)
        certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
        return ssl.PEM_cert_to_DER_cert(certificate.cert_chain_pems[0].bytes().decode())

    return issue


@pytest.fixture
def files(tmp_path, issue):
    issue()
    return tmp_path / "cert.pem", tmp_path / "key.pem"


@pytest.fixture
def trusting(authority):
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


def handshake(context, client):
    """Shake hands in memory, and return the version both agreed on."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server_side = context.wrap_bio(to_server, to_client, server_side=True)
    client_side = client.wrap_bio(to_client, to_server, server_hostname="127.0.0.1")
    waiting = [client_side, server_side]
    for _ in range(10):
        for side in list(waiting):
            with suppress(ssl.SSLWantReadError):
                side.do_handshake()
                waiting.remove(side)
    assert not waiting
    return client_side


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_the_current_versions_are_spoken(files, trusting, version):
    trusting.minimum_version = trusting.maximum_version = version

    assert handshake(server_context(*files), trusting).version() == version.name.replace("_", ".")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
def test_older_versions_are_refused(files, trusting, version):
    """B2-SEC-01"""
    trusting.minimum_version = trusting.maximum_version = version
    trusting.set_ciphers("ALL:@SECLEVEL=0")
    server = server_context(*files)
    server.set_ciphers("ALL:@SECLEVEL=0")  # the refusal must not be for want of a cipher

    with pytest.raises(ssl.SSLError, match=r"(?i)version|protocol"):
        handshake(server, trusting)


@pytest.mark.parametrize("suites", ["AES256-GCM-SHA384", "ECDHE+SHA384+AES256:!AESGCM"])
def test_ciphers_without_forward_secrecy_or_authentication_are_refused(files, trusting, suites):
    trusting.maximum_version = ssl.TLSVersion.TLSv1_2
    trusting.set_ciphers(suites)

    with pytest.raises(ssl.SSLError, match=r"(?i)no.shared.cipher"):
        handshake(server_context(*files), trusting)


@pytest.mark.parametrize(("mode", "warns"), [(0o600, False), (0o640, False), (0o644, True)])
def test_a_key_that_everybody_can_read_is_reported(files, mode, warns):
    files[1].chmod(mode)

    with capture_logs() as logs:
        server_context(*files)

    assert [line["event"] for line in logs] == ["tls.key_exposed"] * warns


def certificate_of(context, trusting):
    return handshake(context, trusting).getpeercert(binary_form=True)


def test_a_renewed_certificate_is_used_for_new_connections(files, issue, trusting):
    context = server_context(*files)
    renewed = issue()

    reloader(context, *files)()

    assert certificate_of(context, trusting) == renewed


def test_a_certificate_is_renewed_again_and_again(files, issue, trusting):
    context = server_context(*files)
    reload = reloader(context, *files)

    for _ in range(3):
        renewed = issue()
        reload()
        assert certificate_of(context, trusting) == renewed
        trusting.maximum_version = ssl.TLSVersion.TLSv1_2


class OnceGood:
    """The path of a key that is another one when it is opened again."""

    def __init__(self, key, other):
        self._paths = [key, other]
        self.stat = key.stat

    def __fspath__(self):
        return str(self._paths.pop(0) if len(self._paths) > 1 else self._paths[0])


def test_files_that_change_while_they_are_read_leave_a_pair_that_fits(
    files, issue, trusting, tmp_path
):
    context = server_context(*files)
    other = files[1].rename(tmp_path / "other.pem")
    renewed = issue()

    reloader(context, files[0], OnceGood(files[1], other))()

    assert certificate_of(context, trusting) == renewed


@pytest.mark.parametrize("broken", ["certificate", "key", "mismatch", "missing", "empty"])
def test_files_that_do_not_fit_leave_the_earlier_certificate(files, issue, trusting, broken):
    certificate, key = files
    context = server_context(*files)
    before = certificate_of(context, trusting)
    earlier_key = key.read_bytes()
    issue()
    match broken:
        case "certificate":
            certificate.write_text("garbage")
        case "key":
            key.write_bytes(key.read_bytes()[:-200])
        case "mismatch":
            key.write_bytes(earlier_key)
        case "missing":
            certificate.unlink()
        case "empty":
            key.write_text("")

    with capture_logs() as logs:
        reloader(context, *files)()

    assert certificate_of(context, trusting) == before
    assert [line["event"] for line in logs] == ["tls.not_reloaded"]


def test_a_key_with_a_password_is_refused_and_not_asked_for(files):
    certificate, key = files
    loaded = serialization.load_pem_private_key(key.read_bytes(), None)
    key.write_bytes(
        loaded.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )

    with pytest.raises(ConfigurationError, match="HFS_TLS_KEY"):
        server_context(certificate, key)


def settings(files, **more):
    return Settings(
        storage_backend="memory",
        bulk_export_output_backend="memory",
        server_port=0,
        worker_shutdown_timeout=timedelta(seconds=0.2),
        tls_cert=files[0],
        tls_key=files[1],
        **more,
    )


async def served(files, use):
    """Serve over TLS in this process while `use` runs with the URL."""

    async def use_and_stop(url: str) -> None:
        try:
            await use(url)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    async with asyncio.TaskGroup() as group:
        await serving.serve(
            settings(files), on_ready=lambda url: group.create_task(use_and_stop(url))
        )


async def test_a_hangup_renews_the_certificate_and_keeps_connections(files, issue, trusting):
    seen = []

    async def use(url: str) -> None:
        async with httpx.AsyncClient(verify=trusting, timeout=60) as kept:
            seen.append((await kept.get(f"{url}/health")).status_code)
            renewed = issue()
            os.kill(os.getpid(), signal.SIGHUP)
            port = int(url.rpartition(":")[2])
            while await peer_certificate(port, trusting) != renewed:
                await asyncio.sleep(0.01)
            seen.append((await kept.get(f"{url}/health")).status_code)
            stream = next(iter(kept._transport._pool.connections))
            assert len(kept._transport._pool.connections) == 1
            assert stream.info().endswith("Request Count: 2")

    await served(files, use)

    assert seen == [200, 200]


async def peer_certificate(port, trusting):
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trusting)
    certificate = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    del reader
    return certificate


async def test_plain_http_and_silence_on_the_port_of_tls_harm_nobody(files, trusting):
    async def use(url: str) -> None:
        port = int(url.rpartition(":")[2])
        silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(20)]
        plain = socket.create_connection(("127.0.0.1", port))
        plain.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        async with httpx.AsyncClient(verify=trusting, timeout=60) as client:
            assert (await client.get(f"{url}/health")).status_code == 200
        for connection in [*silent, plain]:
            connection.close()

    await served(files, use)


async def test_urls_of_responses_are_of_https(files, trusting):
    async def use(url: str) -> None:
        async with httpx.AsyncClient(verify=trusting, timeout=60) as client:
            response = await client.get(f"{url}/$export", headers={"Prefer": "respond-async"})
        assert response.headers["content-location"].startswith(f"{url}/export-status/")
        assert url.startswith("https://")

    await served(files, use)


@pytest.mark.parametrize("missing", ["HFS_TLS_CERT", "HFS_TLS_KEY"])
def test_a_certificate_without_a_key_is_refused(tmp_path, files, missing):
    both = {"HFS_TLS_CERT": str(files[0]), "HFS_TLS_KEY": str(files[1])}
    del both[missing]
    site = Site(tmp_path, **both)

    process = site.start("serve")

    assert process.process.wait() == 2
    assert "HFS_TLS_CERT and HFS_TLS_KEY belong together" in process.output()
