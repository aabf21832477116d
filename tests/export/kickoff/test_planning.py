"""The order of shards."""

from helios_core.export.kickoff.planning import largest_first, number_shards
from helios_core.model.exports import Shard


def shard(resource_type, size, *, phase=0):
    return Shard(number=0, resource_type=resource_type, ordinal=1, bytes=size, phase=phase)


def test_shards_are_numbered_by_phase_then_size_and_ordinals_stay():
    planned = [
        shard("Condition", 10),
        shard("Observation", 128),
        shard("Observation", 64),
        shard("Practitioner", 500, phase=1),
        shard("Patient", 64),
    ]

    ordered = largest_first(number_shards(planned))

    assert [(each.number, each.resource_type, each.ordinal) for each in ordered] == [
        (0, "Observation", 1),
        (1, "Observation", 2),
        (2, "Patient", 1),
        (3, "Condition", 1),
        (4, "Practitioner", 1),
    ]
