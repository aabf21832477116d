"""JSON Patch (RFC 6902); what is not changed keeps its text."""

import json

import msgspec
import pytest

from helios_core.errors import InvalidResource, PatchFailed
from helios_core.fhir.definitions import FHIRVersion
from helios_core.fhir.json_patch import MAX_OPERATIONS, parse_json_patch


def patched(document, *operations):
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    patch = parse_json_patch(json.dumps(operations).encode())
    return patch.apply(body, FHIRVersion.R4)


def op(name, path, **members):
    return {"op": name, "path": path, **members}


@pytest.mark.parametrize(
    ("document", "operations", "expected"),
    [
        # RFC 6902, appendix A
        ({"foo": "bar"}, [op("add", "/baz", value="qux")], {"baz": "qux", "foo": "bar"}),
        (
            {"foo": ["bar", "baz"]},
            [op("add", "/foo/1", value="qux")],
            {"foo": ["bar", "qux", "baz"]},
        ),
        ({"baz": "qux", "foo": "bar"}, [op("remove", "/baz")], {"foo": "bar"}),
        ({"foo": ["bar", "qux", "baz"]}, [op("remove", "/foo/1")], {"foo": ["bar", "baz"]}),
        (
            {"baz": "qux", "foo": "bar"},
            [op("replace", "/baz", value="boo")],
            {"baz": "boo", "foo": "bar"},
        ),
        (
            {"foo": {"bar": "baz", "waldo": "fred"}, "qux": {"corge": "grault"}},
            [op("move", "/qux/thud", **{"from": "/foo/waldo"})],
            {"foo": {"bar": "baz"}, "qux": {"corge": "grault", "thud": "fred"}},
        ),
        (
            {"foo": ["all", "grass", "cows", "eat"]},
            [op("move", "/foo/3", **{"from": "/foo/1"})],
            {"foo": ["all", "cows", "eat", "grass"]},
        ),
        (
            {"baz": "qux", "foo": ["a", 2, "c"]},
            [op("test", "/baz", value="qux"), op("test", "/foo/1", value=2)],
            {"baz": "qux", "foo": ["a", 2, "c"]},
        ),
        (
            {"foo": "bar"},
            [op("add", "/child", value={"x": {}})],
            {"foo": "bar", "child": {"x": {}}},
        ),
        ({"foo": "bar"}, [op("add", "/baz", value="qux", xyz=123)], {"foo": "bar", "baz": "qux"}),
        ({"/": 9, "~1": 10}, [op("test", "/~01", value=10)], {"/": 9, "~1": 10}),
        ({"foo": ["bar"]}, [op("add", "/foo/-", value=["x", "y"])], {"foo": ["bar", ["x", "y"]]}),
        # beyond
        (
            {"a": {"b": 1}},
            [op("copy", "/c", **{"from": "/a"}), op("replace", "/c/b", value=2)],
            {"a": {"b": 1}, "c": {"b": 2}},
        ),
        ({"a": 1}, [op("add", "", value={"b": 2})], {"b": 2}),
        ({"a": 1}, [op("add", "/a", value=2)], {"a": 2}),
        ({"a": 1}, [op("move", "/a", **{"from": "/a"})], {"a": 1}),
        ({"a": [1]}, [op("remove", "/a/0")], {}),
        ({"a": [1]}, [op("remove", "/a/0"), op("add", "/a/-", value=2)], {"a": [2]}),
        ({"a": 1, "c": 2.0}, [op("test", "/c", value=2)], {"a": 1, "c": 2.0}),
        ({"a": None}, [op("test", "/a", value=None)], {"a": None}),
        ({"a": 1}, [], {"a": 1}),
    ],
)
def test_operations_do_what_the_rfc_says(document, operations, expected):
    assert json.loads(patched(document, *operations)) == expected


@pytest.mark.parametrize(
    ("document", "operation"),
    [
        ({"baz": "qux"}, op("test", "/baz", value="bar")),
        ({"foo": "bar"}, op("add", "/baz/bat", value="qux")),
        ({"/": 9, "~1": 10}, op("test", "/~01", value="10")),
        ({"a": 1}, op("test", "/a", value=True)),
        ({"a": [1]}, op("test", "/a", value=[True])),
        ({"a": 1}, op("replace", "/b", value=1)),
        ({"a": 1}, op("remove", "/b")),
        ({"a": 1}, op("move", "/c", **{"from": "/b"})),
        ({"a": 1}, op("copy", "/c", **{"from": "/b"})),
        ({"a": [1]}, op("add", "/a/2", value=1)),
        ({"a": [1]}, op("add", "/a/01", value=1)),
        ({"a": [1]}, op("add", "/a/-1", value=1)),
        ({"a": [1]}, op("remove", "/a/-")),
        ({"a": [1]}, op("remove", "/a/1")),
        ({"a": "text"}, op("add", "/a/0", value=1)),
    ],
)
def test_what_does_not_fit_is_refused_without_showing_the_resource(document, operation):
    with pytest.raises(PatchFailed, match=r"^operation 1 ") as failed:
        patched(document, op("add", "/z", value=1), operation)

    assert "text" not in str(failed.value)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"[1]",
        b"[{}]",
        b"\xff",
        b"[" * 5000,
        b'[{"op":"nix","path":"/a"}]',
        b'[{"op":"add","path":"/a"}]',
        b'[{"op":"test","path":"/a"}]',
        b'[{"op":"copy","path":"/a"}]',
        b'[{"op":"add","path":"a","value":1}]',
        b'[{"op":"add","path":"/~2","value":1}]',
        b'[{"op":"add","op":"remove","path":"/a","value":1}]',
        b'[{"op":"move","from":"/a","path":"/a/b"}]',
        b'[{"op":"remove","path":"' + b"/a" * 5000 + b'"}]',
        msgspec.json.encode([op("remove", "/a")] * (MAX_OPERATIONS + 1)),
    ],
)
def test_what_is_no_patch_is_refused(body):
    with pytest.raises(InvalidResource):
        parse_json_patch(body)


def test_what_a_patch_leaves_alone_keeps_its_text():
    document = (
        rb'{"a":1.10,"b":-0,"c":1e400,"d":123456789012345678901234567890,"e":"\u00e9\/",'
        rb'"f":[{"g":1.0},{"h":2.00}]}'
    )

    text = patched(document, op("add", "/f/0/x", value=1), op("move", "/f/1", **{"from": "/f/0"}))

    assert text == document.replace(b'{"g":1.0},{"h":2.00}', b'{"h":2.00},{"g":1.0,"x":1}')


def test_a_value_keeps_its_text():
    patch = parse_json_patch(rb'[{"op":"add","path":"/a","value":{"v":1.10,"t":"\u00e9"}}]')

    assert patch.apply(b'{"b":1}', FHIRVersion.R4) == rb'{"b":1,"a":{"v":1.10,"t":"\u00e9"}}'


def test_copies_have_a_bound():
    doubling = [op("copy", f"/{number}", **{"from": ""}) for number in range(100)]

    with pytest.raises(PatchFailed, match="copies"):
        patched({"a": "x" * 1000}, *doubling)
