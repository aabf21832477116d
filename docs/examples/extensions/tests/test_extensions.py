"""Every extension passes the suite of its kind, and does what it is there for."""

import json
import shutil
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from helios_examples import confidential, disk, groups, recent, statistics, webhook
from helios_examples.confidential import CONFIDENTIALITY
from msgspec.structs import replace

from helios_core import ExportIntent, JobStatus, Level
from helios_core.testing import (
    CommandSuite,
    FileAuthorizerSuite,
    HealthCheckSuite,
    ObserverSuite,
    RouteSuite,
    TransformSuite,
    corpus,
)


class TestRecent(CommandSuite):
    @pytest.fixture
    def extension(self):
        return recent.helios_command()


class TestStatistics(RouteSuite):
    @pytest.fixture
    def extension(self):
        return statistics.helios_routes()

    async def test_nobody_exported_anything_yet(self, client):
        response = await client.get(f"{self.prefix}/exports")

        assert (response.status_code, response.json()) == (200, [])


class TestDisk(HealthCheckSuite):
    @pytest.fixture
    def extension(self, monkeypatch):
        self.patch = monkeypatch
        return disk.helios_health_checks()

    @property
    def settings(self):
        return {"min_free": 1}

    async def make_unwell(self):
        full = shutil.disk_usage(".")._replace(free=0)
        self.patch.setattr(shutil, "disk_usage", lambda _: full)


class TestConfidential(TransformSuite):
    @pytest.fixture
    def extension(self):
        return confidential.helios_transform()

    def confidential(self):
        security = [{"system": CONFIDENTIALITY, "code": "R"}]
        return [
            {
                "resourceType": "Condition",
                "id": "c",
                "meta": {"security": security},
                "code": {"text": self.SECRET},
            }
        ]


class TestGroups(FileAuthorizerSuite):
    settings = {"allowed": ("client:g1", "client:g2")}  # noqa: RUF012

    @pytest.fixture
    def extension(self):
        return groups.helios_file_authorizer()

    def allowed(self):
        return [ExportIntent(tenant="t", level=Level.GROUP, group_id=g) for g in ("g1", "g2")]

    def refused(self):
        other = ExportIntent(tenant="t", level=Level.GROUP, group_id="g3")
        return [other, ExportIntent(tenant="t", level=Level.SYSTEM)]


class Receiver(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.posted.append(json.loads(body)["export"])
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_):
        pass


class TestWebhook(ObserverSuite):
    @pytest.fixture
    def extension(self):
        server = HTTPServer(("127.0.0.1", 0), Receiver)
        self.posted = server.posted = []
        threading.Thread(target=server.serve_forever).start()
        self.port = server.server_address[1]
        yield webhook.helios_observer()
        server.shutdown()
        server.server_close()

    @property
    def settings(self):
        return {"url": f"http://127.0.0.1:{self.port}/exports"}

    async def test_only_exports_that_are_complete_or_in_error_are_posted(self, subject):
        for status in JobStatus:
            await subject(replace(corpus.job(status), status=status))

        assert self.posted == ["complete", "error"]
