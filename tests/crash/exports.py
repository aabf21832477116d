"""What the tests of killed and restarted processes ask of an export."""

from collections import Counter

from tests.processes import Client, Site, names


def completed_shards(site: Site) -> Counter[int]:
    """How often each shard was completed, by every log of the site."""
    events = [event for process in site.processes for event in process.events()]
    return Counter(e["shard"] for e in events if e["event"] == "shard.completed")


def assert_exact(client: Client, status: str, expected: list[str]) -> None:
    assert names(client.resources(client.manifest(status))) == expected
