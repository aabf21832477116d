"""RFC 9110 section 12 (content negotiation), case by case."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from litestar import get

from helios_core.http.negotiation import accepts_gzip, parse_accept
from helios_core.http.requests import MAX_HEADER_BYTES
from helios_core.storage.backends import OpenedRoutes

LINES = st.lists(st.text("a/*;q=.01, \t\"\\'%é", max_size=30) | st.text(max_size=20), max_size=3)


def names(*lines):
    return [item.name for item in parse_accept(lines)]


def qualities(*lines):
    return {item.name: item.quality for item in parse_accept(lines)}


def test_the_highest_quality_comes_first_and_equal_ones_keep_their_order():
    """RFC 9110 §12.5.1"""
    header = "text/plain; q=0.5, text/html, text/x-dvi; q=0.8, text/x-c, text/*;q=0"

    assert names(header) == ["text/html", "text/x-c", "text/x-dvi", "text/plain", "text/*"]


def test_all_lines_of_a_header_count():
    """RFC 9110 §5.3"""
    assert names("a/a;q=0.1", "b/b", "", "c/c;q=0.2") == ["b/b", "c/c", "a/a"]
    assert names() == names("") == []


def test_the_case_of_types_and_names_of_parameters_does_not_count():
    """RFC 9110 §8.3.1"""
    [item] = parse_accept(['Application/FHIR+JSON ; FhirVersion="4.0";Q=0.5'])

    assert item.name == "application/fhir+json"
    assert (item.parameters["fhirversion"], item.quality) == ("4.0", 0.5)


def test_empty_elements_do_not_count():
    """RFC 9110 §5.6.1.2"""
    assert names(" , a/a ,, b/b,") == ["a/a", "b/b"]


def test_a_quoted_comma_or_semicolon_separates_nothing():
    """RFC 9110 §5.6.4"""
    header = r'a/a;x="1,2;q=0, c/c";q=0.2, b/b;y="say \"hi, you\""'

    first, second = parse_accept([header])

    assert (first.name, first.parameters) == ("b/b", {"y": 'say "hi, you"'})
    assert (second.name, second.parameters["x"], second.quality) == ("a/a", "1,2;q=0, c/c", 0.2)


@pytest.mark.parametrize(
    ("weight", "quality"),
    [
        *(("0", 0), ("0.", 0), ("0.000", 0), ("1", 1), ("1.", 1), ("1.000", 1), ("0.333", 0.333)),
        ('"0.5"', 0.5),
        pytest.param(".2", 0.2, id="as old versions of Java send it"),
        pytest.param("0.12345", 0.12345, id="more digits than allowed"),
        pytest.param("1.5", 1, id="more than there is"),
    ],
)
def test_a_weight_is_a_number_from_0_to_1(weight, quality):
    """RFC 9110 §12.4.2"""
    assert qualities(f"a/b;q={weight}") == {"a/b": quality}


@pytest.mark.parametrize(
    "weight",
    ["", "x", "-1", "inf", "nan", "1e-5", "0_1", "٣", "²", "9" * 10_000, ".", "0x"],
)
def test_a_weight_that_cannot_be_read_counts_as_absent(weight):
    assert qualities(f"a/b;q={weight}") == {"a/b": 1}


@pytest.mark.parametrize("header", ['a/b;x="unclosed, c/d', '"', '"' * 999])
def test_a_quote_that_is_never_closed_makes_the_header_count_as_absent(header):
    assert names(header) == []


@pytest.mark.parametrize(
    "header",
    [
        *("gzip", "GZIP", "x-gzip", "*", "gzip;q=0.001", "deflate, gzip;q=1.0, *;q=0.5"),
        *("identity;q=0.5, gzip", "br;q=1, *;q=0.1", "gzip;q=1, *;q=0", "identity;q=0, gzip"),
    ],
)
def test_these_accept_gzip(header):
    """RFC 9110 §8.4.1.3 and §12.5.3"""
    assert accepts_gzip([header])


@pytest.mark.parametrize(
    "header",
    [
        *("", "identity", "br", "gzip;q=0", "gzip;q=0.000", "*;q=0", "gzip;q=0, *", "*, gzip;q=0"),
        *("x-gzip;q=0, *", "identity;q=0", "gzipped", "compress, deflate;q=0.5"),
    ],
)
def test_these_do_not_accept_gzip(header):
    """RFC 9110 §12.5.3"""
    assert not accepts_gzip([header])


def test_without_accept_encoding_nothing_is_compressed():
    """RFC 9110 §12.5.3 allows any coding then, but many such clients cannot read gzip."""
    assert not accepts_gzip([])


@given(LINES)
def test_whatever_is_sent_has_elements_with_qualities(lines):
    assert all(0 <= item.quality <= 1 for item in parse_accept(lines))
    assert accepts_gzip(lines) in (True, False)


@pytest.mark.parametrize("path", ["/metadata", "/Patient", "/$export", "/export-status/x"])
async def test_headers_that_are_too_large_are_refused_unread(client, outcome, path):
    """RFC 9110 §5.4"""
    large = {"Accept": "a/b," * (MAX_HEADER_BYTES // 4), "Prefer": "respond-async"}

    outcome(await client.get(path, headers=large), 431, "too-long")


async def test_no_route_of_a_plugin_lifts_the_limit_of_headers(open_site, outcome):
    @get("/echo", before_request=lambda _: None)
    async def echo() -> str:
        return "echo"

    routes = OpenedRoutes(plugin="echo", handlers=[echo], public=True)
    site = await open_site(routes=[routes])
    large = {"X-Large": "x" * MAX_HEADER_BYTES}

    assert (await site.client.get("/_plugins/echo/echo")).status_code == 200
    outcome(await site.client.get("/_plugins/echo/echo", headers=large), 431, "too-long")


@pytest.mark.parametrize(
    "line",
    [
        pytest.param("application/json," * 1500, id="many elements"),
        pytest.param("application/json" + ";a=b" * 6000, id="many parameters"),
        pytest.param("application/json;" + "*1" * 12_000 + "=a", id="many continuations"),
        pytest.param('application/json;a="' + "\\" * 24_000, id="many escapes"),
        pytest.param("application/json;" + " " * 24_000 + ";", id="much white space"),
        pytest.param('"' * 24_001, id="many quotes"),
        pytest.param("a" * 24_000, id="a long word"),
        pytest.param("é" * 10_000, id="letters beyond ASCII"),
    ],
)
@pytest.mark.parametrize(
    "name", ["Accept", "Accept-Encoding", "Content-Type", "Range", "If-Range", "If-None-Match"]
)
async def test_a_long_header_breaks_nothing(site, name, line):
    await site.put({"resourceType": "Patient", "id": "p1"})

    response = await site.client.get("/Patient/p1", headers={name: line.encode()})

    assert response.status_code in {200, 406}
