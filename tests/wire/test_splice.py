from __future__ import annotations

import base64
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import pytest
from attrs import frozen
from each import each
from hypothesis import given
from hypothesis import strategies as st

from proxy.wire import splice
from proxy.wire.parted import Parted
from proxy.wire.splice import (
    SHORT,
    asking_usage,
    duplicates,
    each_once,
    members,
    renamed,
    renamed_around,
    rewrite,
    whole,
)
from proxy.wire.thin import lightened, thinned

SHARED = Path(__file__).parents[2].parent / "shared"
Object = list[tuple[str, Any]]  # a JSON object with its order and its duplicates


def parsed(body: bytes) -> Any:
    return json.loads(body, object_pairs_hook=list)


REPLACED = {
    "the value alone": (b'{"model":"a"}', b'{"model":"x/y"}'),
    "white space stays": (b' {\n "model" :\t"a" ,\r\n "n":1}\n', b' {\n "model" :\t"x/y" ,\r\n "n":1}\n'),
    "every top-level one": (b'{"model":"a","n":1,"model":"b"}', b'{"model":"x/y","n":1,"model":"x/y"}'),
    "an escaped key": (b'{"mod\\u0065l":"a"}', b'{"mod\\u0065l":"x/y"}'),
    "a value of another type": (
        b'{"model":{"model":[1,"}"]},"b":null}',
        b'{"model":"x/y","b":null}',
    ),
    "none below the top level": (
        b'{"a":{"model":"a"},"b":[{"model":"b"}],"c":"\\"model\\":\\"c\\""}',
        b'{"a":{"model":"a"},"b":[{"model":"b"}],"c":"\\"model\\":\\"c\\"","model":"x/y"}',
    ),
    "no key that only resembles it": (
        b'{"Model":"a","model ":"b","mo\\u0000del":"c"}',
        b'{"Model":"a","model ":"b","mo\\u0000del":"c","model":"x/y"}',
    ),
    "numbers as they were": (
        b'{"model":"a","seed":12345678901234567890,"t":1.0e+00}',
        b'{"model":"x/y","seed":12345678901234567890,"t":1.0e+00}',
    ),
    "strings that end in backslashes": (
        b'{"a":"\\\\","b":"\\\\\\"","model":"m\\\\"}',
        b'{"a":"\\\\","b":"\\\\\\"","model":"x/y"}',
    ),
    "a lone surrogate": (b'{"u":"\\ud800","model":"\\udfff"}', b'{"u":"\\ud800","model":"x/y"}'),
    "nothing there": (b"{}", b'{"model":"x/y"}'),
}

REMOVED = {
    "the first": (b'{"models":[1,2],"b":2}', b'{"b":2}'),
    "one in the middle": (b'{ "a":1 , "models":[] , "b":2 }', b'{ "a":1 , "b":2 }'),
    "the last": (b'{ "a":1 , "sort":"price" }', b'{ "a":1 }'),
    "the only one": (b'{ "sort":"price" }', b"{  }"),
    "all of several": (b'{"sort":1,"models":2}', b"{}"),
    "the first two": (b'{\n "sort":1,\n "models":2,\n "a":3\n}', b'{\n "a":3\n}'),
    "the last two": (b'{\n "a":3,\n "sort":1,\n "models":2\n}', b'{\n "a":3\n}'),
    "every second": (b'{"sort":1,"a":1,"models":2,"b":2,"sort":3}', b'{"a":1,"b":2}'),
    "an escaped key": (b'{"s\\u006frt":1,"a":2}', b'{"a":2}'),
    "only at the top level": (b'{"a":{"sort":1}}', b'{"a":{"sort":1}}'),
    "none": (b'{"a":1}', b'{"a":1}'),
}

USAGE = {
    "no options": (b'{"a":1 }', b'{"a":1,"stream_options":{"include_usage":true} }'),
    "an empty body": (b"{ }", b'{"stream_options":{"include_usage":true} }'),
    "empty options": (b'{"stream_options":{ },"a":1}', b'{"stream_options":{"include_usage":true },"a":1}'),
    "other options": (
        b'{"stream_options": {"x": [1] }, "a":1}',
        b'{"stream_options": {"x": [1],"include_usage":true }, "a":1}',
    ),
    "false": (
        b'{"stream_options":{"include_usage" : false,"x":1}}',
        b'{"stream_options":{"include_usage" : true,"x":1}}',
    ),
    "true already": (b'{"stream_options":{"include_usage":true}}', b'{"stream_options":{"include_usage":true}}'),
    "twice within": (
        b'{"stream_options":{"include_usage":0,"include_usage":null}}',
        b'{"stream_options":{"include_usage":true,"include_usage":true}}',
    ),
    "null options": (b'{"stream_options":null}', b'{"stream_options":{"include_usage":true}}'),
    "options of a wrong type are the client's": (b'{"stream_options":[1]}', b'{"stream_options":[1]}'),
}


@each(("body", "wanted"), REPLACED.values(), ids=REPLACED)
def test_the_model_is_replaced(body: bytes, wanted: bytes) -> None:
    assert rewrite(body, model="x/y") == wanted


@each(("body", "wanted"), REMOVED.values(), ids=REMOVED)
def test_members_go_with_one_comma(body: bytes, wanted: bytes) -> None:
    assert rewrite(body, drop={"models", "sort"}) == wanted


@each(("body", "wanted"), USAGE.values(), ids=USAGE)
def test_usage_is_asked_for(body: bytes, wanted: bytes) -> None:
    assert rewrite(body, include_usage=True) == wanted


def test_all_edits_in_one_call() -> None:
    body = b'{"models":["a"], "messages":[] , "stream_options":{"x":1},"model":"auto", "sort":"price"}'
    assert rewrite(body, model="m", drop=("models", "sort"), include_usage=True) == (
        b'{"messages":[] , "stream_options":{"x":1,"include_usage":true},"model":"m"}'
    )


def test_a_body_without_a_model_gets_one() -> None:
    assert rewrite(b'{"models":["a"]}', model="m", drop={"models"}, include_usage=True) == (
        b'{"model":"m","stream_options":{"include_usage":true}}'
    )
    assert rewrite(b'{"a":1,"models":[]}', model="m", drop={"models"}) == b'{"a":1,"model":"m"}'


def test_options_that_are_dropped_are_written_anew() -> None:
    body = b'{"a":1,"stream_options":{"x":1}}'
    assert rewrite(body, drop={"stream_options"}, include_usage=True) == (
        b'{"a":1,"stream_options":{"include_usage":true}}'
    )


def test_without_an_edit_the_body_is_the_same_object() -> None:
    body = b'{"model":"a"}'
    assert rewrite(body) is body
    assert rewrite(body, drop={"sort"}) is body


@each("model", ['a"b\\c', "line\nend", "modèle-→", "\ud800", "@cf/meta/llama"])
def test_any_name_is_written_as_json(model: str) -> None:
    assert json.loads(rewrite(b'{"model":"a"}', model=model)) == {"model": model}


def test_members_are_positions_of_keys_and_values() -> None:
    body = b' { "a" : [1, {"b": 2}] ,"\\u0061":"x"}'
    found = members(body)
    assert [member.key for member in found] == ["a", "a"]
    assert [body[member.key_start : member.value_end] for member in found] == [b'"a" : [1, {"b": 2}]', b'"\\u0061":"x"']
    assert [body[member.value_start : member.value_end] for member in found] == [b'[1, {"b": 2}]', b'"x"']
    assert duplicates(found) == {"a"}
    assert duplicates(found[:1]) == set()


LARGE = {
    "a megabyte of base64": '"' + "QUJD" * 350_000 + '"',
    "a megabyte of escaped quotes": '"' + '\\"' * 500_000 + '"',
    "a megabyte of backslashes": '"' + "\\\\" * 500_000 + '"',
    "json within json within json": json.dumps(json.dumps(json.dumps({"a": ['"\n'] * 5_000}))),
    "100,000 brackets deep": "[" * 100_000 + "]" * 100_000,
    "100,000 braces deep": '{"[":' * 100_000 + "1" + "}" * 100_000,
    "100,000 levels with siblings": '[{"a":"]"},' * 50_000 + "1" + "]" * 50_000,
    "many containers deeper than the pattern": "[" + ",".join(["[1," * 20 + "1" + "]" * 20] * 2_000) + "]",
    "100,000 members": "{" + ",".join(f'"k{at}":[{at}]' for at in range(100_000)) + "}",
    "a million numbers": "[" + ",".join(["0"] * 1_000_000) + "]",
    "300,000 strings": "[" + ",".join(['"a"'] * 300_000) + "]",
}


@pytest.mark.parametrize("value", LARGE.values(), ids=LARGE)
def test_large_values_are_passed_over_whole(value: str) -> None:
    body = f'{{"a" : {value} ,"model":"m"}}'.encode()
    assert [body[one.value_start : one.value_end] for one in members(body)] == [value.encode(), b'"m"']
    assert rewrite(body, model="x") == body[:-4] + b'"x"}'


@each("levels", range(12, 24))
@each("pair", [('{"a":', "}"), ("[", "]"), ('["]", [], ', ', {"}": 1}]')])
def test_depth_makes_no_difference(levels: int, pair: tuple[str, str]) -> None:
    value = f"{pair[0] * levels} 1 {pair[1] * levels}"
    body = f'{{"a":{value}, "model":1}}'.encode()
    assert [body[one.value_start : one.value_end] for one in members(body)] == [value.encode(), b"1"]


BROKEN = [
    b"", b" ", b"null", b"[]", b'"a"', b"{", b"}", b'{"a"', b'{"a":', b'{"a":}', b'{"a":1', b'{"a":1,', b'{"a":1,}',
    b'{"a" 1}', b"{a:1}", b'{"a":"x}', b'{"a":"x\\"}', b'{"a":[1}', b'{"a":[[[}', b'{"a":1}}', b'{"a":1} x', b"{,}",
    b'{"\xff":1}', b'{"\\x":1}', b'{"a":1 "b":2}', b'{"a":' + b"[" * 50, b'{"a":' + b"[" * 50 + b'"', b"\xef\xbb\xbf{}",
]  # fmt: skip


@each("body", BROKEN)
def test_what_is_no_object_is_a_value_error(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        members(body)


# -- properties -------------------------------------------------------------------------------------------------


@frozen
class Written:
    """A JSON object as some client may write it, in pieces: one list per member of key, gap with colon, value, gap."""

    head: str
    parts: list[tuple[str, str, str, str]]
    tail: str

    def text(self, change: Callable[[str, str], str] = lambda key, value: value) -> bytes:
        inner = ",".join(
            key + colon + change(json.loads(key[key.index('"') :]), value) + gap
            for key, colon, value, gap in self.parts
        )
        return (self.head + inner + self.tail).encode()


def space(dice: Random) -> str:
    return "".join(dice.choice(" \t\n\r") for _ in range(dice.choice((0, 0, 0, 1, 3))))


def string(text: str, dice: Random) -> str:
    """`text` as a JSON string, each character written in one of the ways that JSON allows."""
    written = []
    for char in text:
        plain = json.dumps(char, ensure_ascii=dice.random() < 0.5 or "\ud800" <= char <= "\udfff")[1:-1]
        escaped = "".join(f"\\u{unit:04x}" for unit in memoryview(char.encode("utf-16-le", "surrogatepass")).cast("H"))
        written.append(escaped if dice.random() < 0.2 else "\\/" if char == "/" and dice.random() < 0.5 else plain)
    return '"' + "".join(written) + '"'


def value(thing: Any, dice: Random) -> str:
    match thing:
        case str():
            return string(thing, dice)
        case list():
            inner = ",".join(space(dice) + value(one, dice) + space(dice) for one in thing) or space(dice)
            return f"[{inner}]"
        case dict():
            pairs = (
                string(key, dice) + space(dice) + ":" + space(dice) + value(one, dice) for key, one in thing.items()
            )
            inner = ",".join(space(dice) + pair + space(dice) for pair in pairs) or space(dice)
            return f"{{{inner}}}"
    return json.dumps(thing)


def written(pairs: Object, dice: Random) -> Written:
    parts = [
        (space(dice) + string(key, dice), space(dice) + ":" + space(dice), value(thing, dice), space(dice))
        for key, thing in pairs
    ]
    return Written(space(dice) + "{", parts, (space(dice) if not parts else "") + "}" + space(dice))


texts = st.text(st.one_of(st.sampled_from('\\"{}[],:/\n\0é€😀\ud800'), st.characters(codec="utf-8")), max_size=8)
scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), texts)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(texts, inner, max_size=4)),
    max_leaves=12,
)
keys = st.one_of(st.sampled_from(["model", "models", "sort", "stream_options", "include_usage"]), texts)
options = st.one_of(values, st.dictionaries(st.one_of(st.just("include_usage"), texts), values, max_size=3))
pairs = keys.flatmap(lambda key: st.tuples(st.just(key), options if key == "stream_options" else values))
dice = st.integers(0, 2**32 - 1).map(Random)  # of its own: drawn one by one its throws take longer than all else
bodies = st.builds(written, st.lists(pairs, max_size=6), dice)
bodies_with_a_model = st.builds(
    lambda before, model, behind, dice: written([*before, ("model", model), *behind], dice),
    st.lists(pairs, max_size=3),
    values,
    st.lists(pairs, max_size=2),
    dice,
)
NAME = 'x/"y'


@given(bodies)
def test_members_are_what_the_parser_finds(body: Written) -> None:
    raw = body.text()
    found = members(raw)
    assert [(one.key, parsed(raw[one.value_start : one.value_end])) for one in found] == parsed(raw)
    assert [raw[one.value_start : one.value_end].decode() for one in found] == [part[2] for part in body.parts]


@given(bodies, st.integers(6, 12), st.integers(1, 3))
def test_long_strings_that_are_left_out_move_no_member(body: Written, step: int, kept: int) -> None:
    text = body.text()
    whole = members(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(splice, "thinned", partial(thinned, step=step, kept=kept))
        assert members(text) == whole


@given(bodies_with_a_model)
def test_replacing_the_model_leaves_every_other_byte(body: Written) -> None:
    wanted = body.text(lambda key, value: json.dumps(NAME) if key == "model" else value)
    assert rewrite(body.text(), model=NAME) == wanted


@given(bodies, st.sets(keys))
def test_removing_members_leaves_the_others_as_written(body: Written, dropped: set[str]) -> None:
    raw = body.text()
    result = rewrite(raw, drop=dropped)
    assert parsed(result) == [(key, thing) for key, thing in parsed(raw) if key not in dropped]
    left = [raw[one.key_start : one.value_end] for one in members(raw) if one.key not in dropped]
    assert [result[one.key_start : one.value_end] for one in members(result)] == left


def with_usage(thing: Any) -> Any:
    if thing is None:
        return [("include_usage", True)]
    if not isinstance(thing, list) or (thing and not isinstance(thing[0], tuple)):
        return thing
    if any(key == "include_usage" for key, _ in thing):
        return [(key, True if key == "include_usage" else one) for key, one in thing]
    return [*thing, ("include_usage", True)]


@given(bodies, st.sets(keys), st.booleans())
def test_one_rewrite_does_what_the_parsed_object_would_say(body: Written, dropped: set[str], usage: bool) -> None:
    raw = body.text()
    wanted = [(one.key, raw[one.value_start : one.value_end]) for one in members(raw) if one.key not in dropped]
    wanted = [(key, json.dumps(NAME).encode() if key == "model" else value) for key, value in wanted]
    present = {key for key, _ in wanted}
    if "model" not in present:
        wanted.append(("model", json.dumps(NAME).encode()))
    if usage and "stream_options" not in present:
        wanted.append(("stream_options", b'{"include_usage":true}'))
    result = rewrite(raw, model=NAME, drop=dropped, include_usage=usage)
    got = [(one.key, result[one.value_start : one.value_end]) for one in members(result)]
    assert [key for key, _ in got] == [key for key, _ in wanted]
    for (key, after), (_, before) in zip(got, wanted, strict=True):
        if usage and key == "stream_options" and before[:1] in (b"{", b"n"):
            assert parsed(after) == with_usage(parsed(before) if before != b"{}" else [])
        else:
            assert after == before


@given(bodies, dice)
def test_a_damaged_body_ends_in_a_value_error_or_in_bytes(body: Written, dice: Random) -> None:
    raw = bytearray(body.text())
    for _ in range(3):
        at = dice.randrange(len(raw) + 1)
        raw[at : at + dice.randrange(3)] = dice.choice((b"", b'"', b"\\", b"{", b"}", b"[", b"]", b",", b":", b"\xff"))
        try:
            rewrite(bytes(raw), model="m", drop={"sort"}, include_usage=True)
        except ValueError:
            continue


@given(st.binary())
def test_any_bytes_end_in_a_value_error_or_in_bytes(raw: bytes) -> None:
    for body in (raw, b"{" + raw + b"}", b'{"a":[' + raw + b"]}"):
        try:
            members(body)
        except ValueError:
            continue


# -- others' material -------------------------------------------------------------------------------------------


def corpus(name: str) -> list[dict[str, Any]]:
    path = SHARED / "corpora" / "json" / name
    if not path.exists():
        pytest.skip("the corpus of JSON texts is not beside the project")
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("name", ["json_test_suite.jsonl", "llm_bodies.jsonl"])
def test_the_corpus_agrees_with_the_parser_or_is_refused(name: str) -> None:
    for case in corpus(name):
        raw = base64.b64decode(case["bytes_base64"])
        for body in (raw, b'{"a":' + raw + b',"model":"m"}'):
            try:
                whole = parsed(body)
            except (ValueError, RecursionError):
                whole = None
            try:
                found = [one.key for one in members(body)]
            except ValueError:
                assert not (body[:1] == b"{" and isinstance(whole, list)), case["name"]
                continue
            if body[:1] == b"{" and isinstance(whole, list):
                assert found == [key for key, _ in whole], case["name"]


def requests() -> list[Any]:
    files = sorted((SHARED / "wire").rglob("*.json"))
    asked = [(path.stem, json.loads(path.read_text())["request"]) for path in files]
    return [pytest.param(request["body"], id=name) for name, request in asked if request and request.get("body")]


@each("body", requests())
def test_recorded_bodies_come_back_as_they_were(body: dict[str, Any]) -> None:
    for raw in (json.dumps(body).encode(), json.dumps(body, indent=2, ensure_ascii=False).encode()):
        assert [one.key for one in members(raw)] == list(body)
        extended = raw[:-1].rstrip() + b', "models": ["a", {"b": "}"}], "sort": "price"' + raw[len(raw[:-1].rstrip()) :]
        assert rewrite(extended, drop={"models", "sort"}) == raw
        if isinstance(body.get("model"), str):
            assert rewrite(rewrite(raw, model="\x00other"), model=body["model"]) == raw
        asked = json.loads(rewrite(raw, include_usage=True))
        assert asked.pop("stream_options") == {**(body.get("stream_options") or {}), "include_usage": True}
        assert asked == {key: value for key, value in body.items() if key != "stream_options"}


# -- the short way ------------------------------------------------------------------------------------------------

NAMES = frozenset({"model", "messages", "stream"})
SEEN_ONCE = {
    "the usual": (b'{"model":"a","messages":[],"temperature":1}', True),
    "other members twice": (b'{"model":"a","n":1,"n":2}', True),
    "one twice": (b'{"model":"a","model":"b"}', False),
    "one twice, once in escapes": (b'{"model":"a","mod\\u0065l":"b"}', False),
    "the name in a value": (b'{"model":"model"}', False),
    "the name below": (b'{"model":"a","messages":[{"model":"b"}]}', False),
    "the name within a text": (b'{"model":"a","messages":["say \\"model\\": x"]}', True),
    "too long to look": (b'{"model":"a","messages":["%b"]}' % (b"x" * SHORT), False),
}


@each(("body", "seen"), SEEN_ONCE.values(), ids=SEEN_ONCE)
def test_a_member_is_seen_to_stand_once(body: bytes, seen: bool) -> None:
    assert each_once(body, json.loads(body), NAMES) is seen


RENAMED = {
    "a name": (b' {"a":[1], "model" :\n"x" , "b":2}', b' {"a":[1], "model" :\n"new/name" , "b":2}'),
    "no string": (b'{"model":1}', None),
    "an escape": (b'{"model":"a\\n"}', None),
    "none": (b'{"a":"model"}', None),
}


@each(("body", "after"), RENAMED.values(), ids=RENAMED)
def test_the_one_model_is_renamed(body: bytes, after: bytes | None) -> None:
    assert renamed(body, "new/name") == after


VALUES = st.recursive(
    st.text(st.sampled_from('model"\\{}[]:, ')) | st.none() | st.just("model"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["model", "x"]), inner, max_size=2),
)


@given(VALUES, st.dictionaries(st.sampled_from(["messages", "a", 'q"', "mod\\el"]), VALUES), st.sampled_from([None, 1]))
def test_the_short_way_leads_where_the_long_one_does(model: Any, more: dict[str, Any], indent: int | None) -> None:
    document = {"model": model} | more
    body = json.dumps(document, indent=indent).encode()
    if each_once(body, document, NAMES):
        assert not duplicates(members(body))
        short = renamed(body, "new")
        assert short is None or short == rewrite(body, model="new")


@pytest.mark.parametrize("body", [b'{"a":1}', b' { "a" : [1, {"b": "}"}] } \n', b'{"a":"x"\t\r\n}'])
def test_usage_is_asked_for_at_the_end_without_a_scan(body: bytes) -> None:
    assert asking_usage(body) == rewrite(body, include_usage=True)


LONG = "iVBORw0KGgo/" * 1000
AROUND = {
    "behind it": {"messages": [LONG], "model": "a"},
    "before it": {"model": "a", "messages": [LONG]},
    "between two": {"messages": [LONG], "model": "a", "input": LONG, "n": 1},
}


@pytest.mark.parametrize("include_usage", [False, True])
@pytest.mark.parametrize("indent", [None, 1])
@each("document", AROUND.values(), ids=AROUND)
def test_the_model_is_renamed_around_what_is_left_out(
    document: dict[str, Any], indent: int | None, include_usage: bool
) -> None:
    body = json.dumps(document, indent=indent).encode() + b" "
    wanted = rewrite(body, model="new/name", include_usage=include_usage)
    for border in range(1, len(body), 997):
        light = lightened(Parted([body[:border], body[border:]]))
        assert light is not None
        for found in (None, members(light.text)):
            parts = renamed_around(light, found, "new/name", include_usage=include_usage)
            assert parts is not None
            assert whole(parts) == wanted
            owners = {id(it.obj) for it in parts if isinstance(it, memoryview)}
            assert owners <= {id(part) for part, _ in light.body.since(0)}  # no copy


def test_a_name_that_is_no_plain_string_is_not_renamed_around() -> None:
    body = json.dumps({"model": 1, "messages": [LONG]}).encode()
    light = lightened(Parted([body]))
    assert light is not None
    assert renamed_around(light, None, "new", include_usage=False) is None
    assert renamed_around(light, members(light.text), "new", include_usage=False) is not None
