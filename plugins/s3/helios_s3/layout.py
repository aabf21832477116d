"""Keys: every part is {prefix}/{tenant}/{job}/{part}; marks and probes begin with a dot."""

from helios_core import PartKey, job_path

OWNER_MARK = ".helios-owner"
"""The object that says which job store the prefix belongs to."""

RESOURCES_MARK = ".helios-resources"
"""The object that says that the prefix holds resources."""

PROBE = ".helios-probe"
"""The prefix of objects with which a starting process tests its rights."""


def job_prefix(prefix: str, tenant: str, job_id: str) -> str:
    """Return the prefix of the keys of one job."""
    return f"{prefix}{job_path(tenant, job_id)}/"


def part_key(prefix: str, key: PartKey) -> str:
    """Return the object key of one part."""
    return prefix + key.path


def job_of(prefix: str, object_key: str) -> tuple[str, str] | None:
    """Return the tenant and the job of an object key, or None if it is not a part's."""
    if not object_key.startswith(prefix):
        return None
    tenant, _, rest = object_key[len(prefix) :].partition("/")
    job_id, slash, _ = rest.partition("/")
    return (tenant, job_id) if slash and tenant[:1] != "." else None


def folders_around(prefix: str) -> list[str]:
    """Return the prefixes that contain a prefix, from the whole bucket inwards."""
    parts = prefix.split("/")[:-1]
    return ["".join(f"{part}/" for part in parts[:depth]) for depth in range(len(parts))]
