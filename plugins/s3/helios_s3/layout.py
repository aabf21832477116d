"""Keys: every part is {prefix}/{tenant}/{job}/{part}; marks and probes begin with a dot."""

from helios_core import InvalidRequest, PartKey

OWNER_MARK = ".helios-owner"
"""The object that says which job store the prefix belongs to."""

RESOURCES_MARK = ".helios-resources"
"""The object that says that the prefix holds resources."""

PROBE = ".helios-probe"
"""The prefix of objects with which a starting process tests its rights."""


def job_prefix(prefix: str, tenant: str, job_id: str) -> str:
    """Return the prefix of the keys of one job."""
    return f"{prefix}{_plain(tenant)}/{_plain(job_id)}/"


def part_key(prefix: str, key: PartKey) -> str:
    """Return the object key of one part."""
    return job_prefix(prefix, key.tenant, key.job_id) + _plain(key.stored_name)


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


def _plain(name: str) -> str:
    # The core has checked these names; they become keys here, so they are checked again.
    if not name or name[0] == "." or any(sign in name for sign in "/\\\0"):
        raise InvalidRequest(
            "a tenant, job or part has a name that cannot be part of an object key;"
            " use letters, digits, '-', '_' and inner dots"
        )
    return name
