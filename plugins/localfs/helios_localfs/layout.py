"""Paths: every file of ours is {root}/{tenant}/{job}/{part}, except the mark of the owner."""

from pathlib import Path

from helios_core import InvalidRequest, PartKey

OWNER_MARK = ".helios-owner"
"""The file that says which job store the folder belongs to."""
_MADE_BY_FILE_SYSTEMS = frozenset({"lost+found"})


def job_folder(root: Path, tenant: str, job_id: str) -> Path:
    """Return the folder of one job."""
    return root / _plain(tenant) / _plain(job_id)


def part_path(root: Path, key: PartKey) -> Path:
    """Return the file of one part."""
    return job_folder(root, key.tenant, key.job_id) / _plain(key.stored_name)


def draft_path(part: Path) -> Path:
    """Return the file in which a part is written until it is complete."""
    return part.with_name(f"{part.name}.tmp")


def subfolders(folder: Path) -> list[str]:
    """Return the names of the folders in a folder; none if it does not exist."""
    try:
        paths = list(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    names = {path.name for path in paths if path.name[0] != "." and path.is_dir()}
    return sorted(names - _MADE_BY_FILE_SYSTEMS)


def _plain(name: str) -> str:
    # The core has checked these names; they become paths here, so they are checked again.
    if not name or name[0] == "." or any(sign in name for sign in "/\\\0"):
        raise InvalidRequest(
            "a tenant, job or part has a name that cannot be a file name;"
            " use letters, digits, '-', '_' and inner dots"
        )
    return name
