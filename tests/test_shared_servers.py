"""Servers that the processes of a test run share."""

import shutil
import sys
import time

import httpx
import pytest

from tests.pace import Deadline
from tests.shared_servers import shared_server


def command(port, _):
    return [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1"]


def answers(url):
    try:
        return httpx.get(url, timeout=60).status_code == httpx.codes.OK
    except httpx.TransportError:
        return False


@pytest.mark.process
@pytest.mark.parametrize("folder_is_gone", [False, True])
def test_a_server_ends_with_its_last_user_even_without_its_folder(tmp_path, folder_is_gone):
    folder = tmp_path / "shared"
    folder.mkdir()
    with shared_server(folder, command, ready="/") as url:
        with shared_server(folder, command, ready="/") as same:
            assert same == url
        assert answers(url)
        if folder_is_gone:
            shutil.rmtree(folder)

    deadline = Deadline(60)
    while answers(url):
        assert not deadline.has_passed()
        time.sleep(0.1)
