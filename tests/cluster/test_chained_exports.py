"""Many incremental exports in a row, over writers in several processes that never pause."""

import threading

import pytest

from tests.chains import IDS, Chain, Writer
from tests.cluster.stores import QUICK

pytestmark = pytest.mark.crash

ROUNDS = {"postgres": 200, "mongodb": 100}


class Loader(threading.Thread):
    """Loads all patients from a file again and again, in a process of its own each time."""

    def __init__(self, cluster) -> None:
        super().__init__()
        self.cluster = cluster
        self.stopped = threading.Event()
        self.loads = 0

    def run(self) -> None:
        file = self.cluster.folder / "patients.ndjson"
        while not self.stopped.wait(1):
            year = 2000 + self.loads % 20
            lines = (
                f'{{"resourceType":"Patient","id":"p{n}","birthDate":"{year}-01-01"}}\n'
                for n in range(IDS)
            )
            file.write_text("".join(lines))
            self.cluster.run("load", str(file))
            self.loads += 1

    def stop(self) -> None:
        self.stopped.set()
        self.join()


@pytest.mark.parametrize("database", QUICK, indirect=True)
def test_hundreds_of_chained_exports_rebuild_the_final_state(cluster, request):
    rounds = ROUNDS[request.node.callspec.params["database"]]
    cluster.grow(servers=2, workers=2)
    clients = [cluster.client_of(server) for server in cluster.servers]
    writers = [Writer(clients[n % 2].base_url, seed=n) for n in range(3)]
    loader = Loader(cluster)

    def written_enough():
        return loader.loads >= 3 and min(writer.writes for writer in writers) > rounds // 4

    Chain().follow(clients, [*writers, loader], rounds, written_enough)
