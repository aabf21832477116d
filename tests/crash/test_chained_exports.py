"""Incremental exports over writers that never pause rebuild exactly the final state."""

import pytest

from tests.chains import Chain, Writer, current

pytestmark = pytest.mark.crash

ROUNDS = 15
WRITERS = 3


def test_chained_exports_over_writers_in_two_processes_rebuild_the_final_state(site):
    """B2-MF-02, TR-43"""
    clients = [site.serve()[1] for _ in range(2)]
    writers = [Writer(clients[n % 2].base_url, seed=n) for n in range(WRITERS)]
    for writer in writers:
        writer.start()
    chain = Chain()

    for number in range(ROUNDS):
        chain.extend(clients[number % 2])
    for writer in writers:
        writer.stop()
    chain.extend(clients[0])

    assert chain.state == current(clients[0])
    assert chain.instants == sorted(set(chain.instants))
    # SQLite's one writer at a time is not fair: of two processes one may have to wait long.
    assert sum(writer.writes for writer in writers) > ROUNDS
