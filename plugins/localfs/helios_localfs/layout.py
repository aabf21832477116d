"""Paths: every file of ours is {root}/{tenant}/{job}/{part}, except the mark of the owner."""

from pathlib import Path

from helios_core import PartKey, job_path

OWNER_MARK = ".helios-owner"
"""The file that says which job store the folder belongs to."""
_MADE_BY_FILE_SYSTEMS = frozenset({"lost+found"})


def job_folder(root: Path, tenant: str, job_id: str) -> Path:
    """Return the folder of one job."""
    return root / job_path(tenant, job_id)


def part_path(root: Path, key: PartKey) -> Path:
    """Return the file of one part."""
    return root / key.path


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
