from pathlib import Path

import pytest

from helios_core import ConfigurationError
from helios_sqlite import SQLiteSettings


def test_the_database_is_in_the_data_folder_by_default():
    assert SQLiteSettings(data_dir="/srv/helios").path == Path("/srv/helios/helios.db")


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("/srv/a.db", "/srv/a.db"),
        ("sqlite:////srv/a.db", "/srv/a.db"),
        ("sqlite:///a.db", str(Path.cwd() / "a.db")),
        ("a b%20c.db", str(Path.cwd() / "a b%20c.db")),
    ],
)
def test_a_database_url_names_a_file(url, path):
    assert SQLiteSettings(database_url=url).path == Path(path)


@pytest.mark.parametrize("url", ["postgresql://host/helios", "sqlite://", ":memory:"])
def test_a_database_url_that_names_no_file_is_refused(url):
    with pytest.raises(ConfigurationError, match="HFS_DATABASE_URL"):
        _ = SQLiteSettings(database_url=url).path
