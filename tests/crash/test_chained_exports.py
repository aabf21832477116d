"""
Incremental exports over writers that never pause rebuild exactly the final state.

HFS_TEST_FUZZ_RUNS is how many exports follow each other.
"""

import os

import pytest

from tests.chains import Chain, Writer

pytestmark = pytest.mark.crash

WRITERS = 3


@pytest.mark.parametrize(
    ("site", "rounds"),
    [
        ("sqlite", 8),
        ("s3", 100),
        ("mongodb", 8),
        pytest.param("mongodb", 100, marks=pytest.mark.in_turn),
    ],
    indirect=["site"],
)
def test_chained_exports_over_writers_in_two_processes_rebuild_the_final_state(site, rounds):
    """B2-MF-02, TR-43"""
    clients = [site.serve()[1] for _ in range(2)]
    writers = [Writer(clients[n % 2].base_url, seed=n) for n in range(WRITERS)]

    rounds = int(os.environ.get("HFS_TEST_FUZZ_RUNS", rounds))

    def written_enough():
        # SQLite's one writer at a time is not fair: of two processes one may have to wait long.
        return sum(writer.writes for writer in writers) > rounds

    Chain().follow(clients, writers, rounds, written_enough)
