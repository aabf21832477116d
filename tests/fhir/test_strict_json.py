import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helios_core.errors import InvalidResource
from helios_core.fhir.strict_json import MAX_DEPTH, compact_json, object_members, read_object

NAMES = st.text(alphabet='ab"\\{}[]:,é\U0001d11e\n', max_size=4)
NUMBERS = st.sampled_from(
    ["0", "-0", "1.10", "1e-7", "1E+400", "-0.0", "9" * 40, "0.10000000000000000001"]
)
STRINGS = st.sampled_from(
    [
        '""',
        '"a"',
        r'"\u00e9"',
        r'"\/"',
        r'"\\u0000"',
        r'"\ud834\udd1e"',
        '"{[\\"]}"',
        '"é\U0001d11e"',
    ]
)


def written():
    """JSON text, as a list of tokens, so that white space can go anywhere between them."""
    return st.recursive(
        st.one_of(NUMBERS, STRINGS, st.sampled_from(["true", "false", "null"])).map(lambda t: [t]),
        lambda inner: st.one_of(
            st.lists(inner, max_size=4).map(array),
            st.dictionaries(NAMES, inner, max_size=4).map(obj),
        ),
        max_leaves=15,
    )


def array(items):
    return ["[", *separated(items), "]"]


def obj(named):
    return ["{", *separated([[json.dumps(n), ":", *tokens] for n, tokens in named.items()]), "}"]


def separated(items):
    return [token for i, item in enumerate(items) for token in ([","] if i else []) + item]


@st.composite
def documents(draw):
    tokens = obj(draw(st.dictionaries(NAMES, written(), max_size=5)))
    spaces = draw(st.lists(st.sampled_from(["", " ", "\n\t"]), min_size=1, max_size=5))
    spaced = "".join(token + spaces[i % len(spaces)] for i, token in enumerate(tokens))
    return "".join(tokens).encode(), spaced.encode()


@given(documents())
def test_white_space_goes_and_every_other_byte_stays(document):
    packed, spaced = document

    tree, text = read_object(spaced)

    assert text == packed
    assert json.loads(msgspec.json.encode(tree), parse_float=str) == json.loads(
        packed, parse_float=str
    )


def test_compact_input_is_given_back_as_it_is():
    body = b'{"a":[1.10,1e-7,"x"],"b":{}}'

    assert read_object(body)[1] is body


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "the body is empty"),
        (b" \n", "the body is empty"),
        (b"[]", "not an object"),
        (b'"x"', "not an object"),
        (b"null", "not an object"),
        (b"{", "not valid JSON"),
        (b'{"a":1}x', r"not valid JSON: trailing characters \(byte 7\)|not valid JSON: trailing"),
        (b'{"a":1,}', "not valid JSON: trailing comma"),
        (b"{'a':1}", "not valid JSON"),
        (b'{"a":NaN}', "not valid JSON"),
        (b'{"a":Infinity}', "not valid JSON"),
        (b'{"a":01}', "not valid JSON: invalid number"),
        (b'{"a":.5}', "not valid JSON"),
        (b'{"a":"\n"}', "not valid JSON"),
        (b'{"a":"\x00"}', "not valid JSON"),
        (b'{"a":"\\x"}', "not valid JSON: invalid escape"),
        (b'{"a":' + b"7" * 9000 + b"}", "not valid JSON: Integer value out of range"),
        (b'\xef\xbb\xbf{"a":1}', "byte order mark"),
        ('{"a":1}'.encode("utf-16"), "byte order mark"),
        (b'{"a":"\xff"}', r"not UTF-8 \(byte 6\)"),
        (b'{"a":"caf\xe9"}', r"not UTF-8 \(byte 9\)"),
        (b'{"\xc0\xaf":1}', r"not UTF-8 \(byte 2\)"),
        (b'{"a":"\xed\xa0\x80"}', r"not UTF-8 \(byte 6\)"),
        (rb'{"a":"\ud800"}', "half a surrogate pair"),
        (rb'{"a":"\uDC00"}', "half a surrogate pair"),
        (rb'{"a":"\ud800\u0041"}', "half a surrogate pair"),
        (rb'{"a":"\ud800x"}', "half a surrogate pair"),
        (rb'{"\ud800":1}', "half a surrogate pair"),
        (rb'{"a":"\ud834\udd1e\udd1e"}', "half a surrogate pair"),
        (rb'{"a":"\\\ud800"}', "half a surrogate pair"),
        (rb'{"a":"\u0000"}', "NUL"),
        (rb'{"a":"\\\u0000"}', "NUL"),
        (rb'{"a\u0000":1}', "NUL"),
        (rb'{"a":["x",{"b":"\u0000"}]}', "NUL"),
        (b'{"a":1,"a":1}', r"same name \(a\) in one object"),
        (b'{"a":1,"a":2}', r"same name \(a\) in one object"),
        (rb'{"a":1,"\u0061":2}', r"same name \(a\) in one object"),
        (b'{"x":[{"y":{"_id":1,"b":[],"_id":1}}]}', r"same name \(_id\) in one object"),
        (b'{"John Doe":1,"John Doe":1}', "same name in one object; names"),
    ],
)
def test_what_two_readers_could_take_differently_is_refused(body, reason):
    with pytest.raises(InvalidResource, match=reason):
        read_object(body)


@pytest.mark.parametrize(
    "body",
    [
        rb'{"a":"\\u0000"}',
        rb'{"a":"\\ud800"}',
        rb'{"a":"\ud834\udd1e"}',
        b'{"a":{"b":1},"c":{"b":1}}',
        b'{"a":1,"A":1}',
        b'{"":1}',
        b'{"a":"\x7f\xe2\x80\xa8"}',
    ],
)
def test_what_is_merely_unusual_is_kept(body):
    assert read_object(body)[1] == body


@pytest.mark.parametrize(("opening", "closing"), [(b"[", b"]"), (b'{"a":', b"}")])
@pytest.mark.parametrize("depth", [MAX_DEPTH, MAX_DEPTH + 1, 900, 5_000, 200_000])
def test_nesting_is_refused_beyond_the_limit_and_not_before(opening, closing, depth):
    body = b'{"a":' + opening * (depth - 1) + b"1" + closing * (depth - 1) + b"}"

    if depth <= MAX_DEPTH:
        assert read_object(body)[1] == body
    else:
        with pytest.raises(InvalidResource, match=f"more than {MAX_DEPTH} levels"):
            read_object(body)


@pytest.mark.parametrize("depth", [MAX_DEPTH, MAX_DEPTH + 1])
def test_nesting_is_counted_among_many_branches_and_strings_with_brackets(depth):
    text = rb'"]}\"]\\",'
    deep = (b"[" + text) * (depth - 3) + b"{}" + b"]" * (depth - 3)
    body = b'{"a":[' + b",".join([deep] * 20) + b"]}"

    if depth <= MAX_DEPTH:
        assert read_object(body)[1] == body
    else:
        with pytest.raises(InvalidResource, match=f"more than {MAX_DEPTH} levels"):
            read_object(body)


def test_brackets_in_strings_and_side_by_side_are_not_depth():
    wide = b'{"a":[' + b",".join([rb'{"b":"[[{{\"[\\"}'] * 500) + b"]}"

    assert read_object(wide)[1] == wide


def test_an_error_never_shows_the_content():
    for body in (b'{"name":"Secret', b'{"name":"Secret\xff"}', b'{"Secret":1,"Secret":1 x}'):
        with pytest.raises(InvalidResource) as caught:
            read_object(body)

        assert "Secret" not in str(caught.value)


def test_an_object_of_very_many_members_is_searched_for_duplicates_in_no_time():
    names = b",".join(b'"k%d":1' % number for number in range(100_000))

    with pytest.raises(InvalidResource, match=r"same name \(k99999\) in one object"):
        read_object(b"{" + names + b',"k99999":1}')


def test_compacting_does_not_look_into_values():
    assert compact_json(b' { "a" : [ 1.10 , "\xff" ] } ') == b'{"a":[1.10,"\xff"]}'


def test_members_are_the_bytes_they_were():
    found = object_members(rb'{"a":1.10,"b":{"c":"\u00e9"},"\u0064":[]}')

    assert {name: bytes(raw) for name, raw in found.items()} == {
        "a": b"1.10",
        "b": rb'{"c":"\u00e9"}',
        "d": b"[]",
    }


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"[]", "object is required"),
        (b'{"a":1,"a":2}', "same name"),
        (rb'{"\u0061":1,"b":"' + b"\xff" + b'"}', "not UTF-8"),
        (b'{"a":1', "not valid JSON"),
        (b'{"a":' + b"[" * 5000 + b"]" * 5000 + b"}", "nested"),
    ],
)
def test_members_of_what_is_no_proper_object_are_refused(text, reason):
    with pytest.raises(InvalidResource, match=reason):
        object_members(text)


@given(
    st.binary(max_size=60)
    | st.text(alphabet='{}[]",:\\u0dD8c1e.-ab ', max_size=40).map(str.encode)
)
def test_any_body_is_read_or_refused(body):
    try:
        _, text = read_object(body)
    except InvalidResource:
        return

    assert json.loads(text) == json.loads(body)
