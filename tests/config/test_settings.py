"""The server's own settings."""

from datetime import timedelta
from pathlib import Path

import msgspec
import pytest

from helios_core.config.settings import OWN, Settings, read_settings
from helios_core.fhir.definitions import FHIRVersion
from helios_core.model.parts import Compression
from helios_core.storage.secrets import Secret


def test_nothing_set_gives_the_defaults():
    assert read_settings({"PATH": "/bin"}) == (Settings(), [])


def test_what_is_set_is_read():
    settings, problems = read_settings(
        {
            "HFS_SERVER_PORT": "0",
            "HFS_DEFAULT_FHIR_VERSION": "R5",
            "HFS_BULK_EXPORT_COMPRESSION": "gzip",
            "HFS_BULK_EXPORT_OUTPUT_TTL": "5",
            "HFS_BULK_EXPORT_PART_ROWS": "3",
        }
    )

    assert not problems
    assert settings.server_port == 0
    assert settings.default_fhir_version is FHIRVersion.R5
    assert settings.bulk_export_compression is Compression.GZIP
    assert settings.bulk_export_output_ttl == timedelta(seconds=5)
    assert settings.bulk_export_part_rows == 3


def test_an_unreadable_value_counts_as_not_set():
    settings, problems = read_settings({"HFS_SERVER_PORT": "99999", "HFS_SERVER_HOST": "::1"})

    assert (settings.server_port, settings.server_host) == (8080, "::1")
    assert problems == ["HFS_SERVER_PORT is '99999'; allowed is a whole number from 0 to 65535"]


def test_a_lease_must_outlive_the_heartbeat():
    _, problems = read_settings({"HFS_BULK_EXPORT_LEASE_DURATION": "20"})

    assert len(problems) == 1
    assert "HFS_BULK_EXPORT_LEASE_DURATION (20)" in problems[0]
    assert "HFS_BULK_EXPORT_HEARTBEAT_INTERVAL (20)" in problems[0]


def test_an_export_is_not_given_up_while_its_lease_may_last():
    _, problems = read_settings({"HFS_BULK_EXPORT_UNFINISHED_TTL": "60"})

    assert len(problems) == 1
    assert "HFS_BULK_EXPORT_UNFINISHED_TTL (60)" in problems[0]
    assert "HFS_BULK_EXPORT_LEASE_DURATION (60)" in problems[0]


@pytest.mark.parametrize(
    ("misspelt", "meant"),
    [
        ("Practitoner", "Practitioner"),
        ("organization", "Organization"),
        ("ENCOUNTER", "Encounter"),
    ],
)
def test_a_misspelt_type_to_bring_along_is_refused_with_the_nearest(misspelt, meant):
    types = f"Location,{misspelt}"

    _, [problem] = read_settings({"HFS_BULK_EXPORT_REFERENCED_TYPES": types})

    assert problem.startswith(f"HFS_BULK_EXPORT_REFERENCED_TYPES names {misspelt!r}")
    assert problem.endswith(f"the nearest is {meant}")


def test_a_type_to_bring_along_that_is_like_no_other_is_refused():
    _, [problem] = read_settings({"HFS_BULK_EXPORT_REFERENCED_TYPES": "Xyzzy"})

    assert problem.endswith("remove it")


def test_types_to_bring_along_may_be_of_any_fhir_version():
    values = {"HFS_BULK_EXPORT_REFERENCED_TYPES": "EffectEvidenceSynthesis,InventoryItem"}

    assert read_settings(values)[1] == []


@pytest.mark.parametrize("tenant", ["a/b", "..", "a..b", ".a", "-a", "a" * 65, "ä"])
def test_a_default_tenant_must_be_one(tenant):
    _, problems = read_settings({"HFS_DEFAULT_TENANT": tenant})

    assert len(problems) == 1


@pytest.mark.parametrize("tenant", ["a", "a.b-c_D9", "a" * 64])
def test_a_proper_default_tenant_is_taken(tenant):
    assert read_settings({"HFS_DEFAULT_TENANT": tenant})[0].default_tenant == tenant


@pytest.mark.parametrize(
    "address", ["example.org", "ftp://x", "http://x?y", "http://", "http://x y"]
)
def test_a_base_url_must_be_one(address):
    _, problems = read_settings({"HFS_BASE_URL": address})

    assert len(problems) == 1


def test_a_base_url_loses_its_final_slash():
    settings, _ = read_settings({"HFS_BASE_URL": "https://example.org/fhir/"})

    assert settings.base_url == "https://example.org/fhir"


def test_output_goes_below_the_data_folder_unless_said_otherwise():
    assert Settings(data_dir=Path("/srv")).output_dir == Path("/srv/exports")
    assert Settings(bulk_export_output_dir=Path("/out")).output_dir == Path("/out")


def test_other_variables_are_kept_for_plugins_and_do_not_print():
    settings, _ = read_settings({"HFS_S3_KEY": "hush", "HOME": "/root"})

    assert settings.others == {"HFS_S3_KEY": Secret("hush")}
    assert "hush" not in repr(settings)


def test_plugins_read_what_is_in_effect():
    settings, _ = read_settings(
        {"HFS_DATA_DIR": "/srv", "HFS_S3_KEY": "hush", "HFS_DATABASE_URL": "x://u:p@h"}
    )

    given = settings.for_plugins()

    assert given["HFS_DATA_DIR"] == "/srv"
    assert given["HFS_BULK_EXPORT_OUTPUT_DIR"] == "/srv/exports"
    assert given["HFS_S3_KEY"] == "hush"
    assert given["HFS_DATABASE_URL"] == "x://u:p@h"
    assert given["HFS_BULK_EXPORT_CLEANUP_INTERVAL"] == "300"
    assert "HFS_BASE_URL" not in given


def test_the_database_url_is_a_secret():
    settings, _ = read_settings({"HFS_DATABASE_URL": "x://u:hush@h"})

    assert "hush" not in repr(settings)


@pytest.mark.parametrize("variable", OWN, ids=lambda variable: variable.name)
def test_every_setting_says_what_it_means(variable):
    assert variable.description.endswith(".")
    assert variable.allowed


WORDED = ("HFS_BASE_URL", "HFS_DATABASE_URL", "HFS_PLUGINS", "HFS_BULK_EXPORT_PART_ROWS")


def test_every_default_could_be_set():
    written = {variable.name: variable.default for variable in OWN if variable.name not in WORDED}
    written["HFS_BULK_EXPORT_OUTPUT_DIR"] = "data/exports"

    settings, problems = read_settings(written)

    assert not problems
    assert settings.output_dir == Settings().output_dir
    assert msgspec.structs.replace(settings, bulk_export_output_dir=None) == Settings()


def test_what_is_told_to_the_tests_is_no_setting():
    settings, problems = read_settings({"HFS_TEST_REQUIRE": "all"})

    assert problems == []
    assert settings == Settings()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HFS_TRUSTED_PROXIES", "proxy.example.org"),
        ("HFS_TRUSTED_PROXIES", "10.0.0.0/8,10.0.0.1/8"),
        ("HFS_ALLOWED_HOSTS", "fhir.example.org:8443"),
        ("HFS_ALLOWED_HOSTS", "https://fhir.example.org"),
        ("HFS_ALLOWED_HOSTS", "fhir.example.org,2001:db8::1"),
        ("HFS_ALLOWED_HOSTS", "*"),
        ("HFS_TLS_CERT", "/etc/cert.pem"),
        ("HFS_TLS_KEY", "/etc/key.pem"),
        ("HFS_TENANT_ROUTING_MODE", "path"),
    ],
)
def test_what_the_network_needs_is_checked_at_the_start(name, value):
    _, problems = read_settings({name: value})

    assert name in "".join(problems)


def test_every_form_of_a_host_may_be_allowed():
    hosts = "fhir.example.org,*.Clinic.example.org,localhost,127.0.0.1,[2001:db8::1],a_b"

    _, problems = read_settings({"HFS_ALLOWED_HOSTS": hosts})

    assert problems == []
