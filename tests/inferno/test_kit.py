"""The kit sees what it looks for: a check that can find nothing would prove nothing."""

import ssl
import warnings
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from tests.inferno.kit import NEW_VERSIONS, OLD_VERSIONS, spoken_versions


class Silent(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    """Shakes hands in the thread of a connection, and survives those that fail."""

    def __init__(self, context):
        super().__init__(("127.0.0.1", 0), Silent)
        self._context = context

    def finish_request(self, request, client_address):
        try:
            with self._context.wrap_socket(request, server_side=True) as secured:
                super().finish_request(secured, client_address)
        except ssl.SSLError:
            return


@pytest.fixture
def url(certificates):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.certificate, certificates.key)
    context.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = ssl.TLSVersion.TLSv1
    with Server(context) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield f"https://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_versions_of_tls_that_are_too_old_are_seen(url, certificates):
    """B2-SEC-01"""
    spoken = spoken_versions(url, certificates.authority)

    assert spoken == {*OLD_VERSIONS, *NEW_VERSIONS}
