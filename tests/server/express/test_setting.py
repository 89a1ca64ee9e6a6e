"""Settings: what is said beside the turns is known again only where nothing about the request has to be looked at."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.dialects import DIALECTS, Dialect
from proxy.server.express.outline import beside_turns, outline_of
from proxy.server.express.setting import LONGEST, MOST, Setting, Settings, keep, recalled, talk_of
from proxy.server.express.setting import said as document_of
from proxy.server.intake import check_turns
from proxy.wire import splice
from proxy.wire.thin import KEPT

VISITOR: Any = object()
TURNS = [{"role": "user", "content": "Hello."}]
ASKED: dict[str, Any] = {"model": "fast", "messages": TURNS, "max_tokens": 16}


class Going:
    """As much of a track as is asked here."""

    native = "native"
    streamed = None

    def __init__(self, dialect: str) -> None:
        self.surface: Any = self
        self.spoken: Dialect = DIALECTS[dialect]


def kept(known: Settings, asked: dict[str, Any], dialect: str = "openai-chat", body: bytes = b"") -> Setting | None:
    """What there is of it when it has come twice."""
    track: Any = Going(dialect)
    body = body or orjson.dumps(asked)
    beside = beside_turns(asked)
    assert beside is not None
    for _ in range(2):
        keep(known, (VISITOR, beside), track, asked, body, track.spoken.read_shape(asked))
    found = recalled(known, VISITOR, body)
    if found is None:
        return None
    assert isinstance(found[2], Setting)
    return found[2]


SAID: dict[str, dict[str, Any]] = {
    "little": {},
    "another model": {"model": "slow"},
    "numbers": {"temperature": 0.5, "seed": 7, "n": 2},
    "texts": {"user": "ann", "reasoning_effort": "high"},
    "null": {"stop": None, "stream": None},
    "a list": {"stop": ["a", 'b"c', "]", "["]},
    "an object": {"stream": True, "stream_options": {"include_usage": True}},
    "a stream": {"stream": True},
    "another model within": {"response_format": {"type": "x", "model": "y"}},
}
WRITTEN: dict[str, Callable[[Any], bytes]] = {
    "closely": orjson.dumps,
    "with blanks": lambda said: json.dumps(said).encode(),
    "over lines": lambda said: b" " + json.dumps(said, indent=2).encode() + b"\n",
    "the turns last": lambda said: orjson.dumps({name: said[name] for name in sorted(said, key="messages".__eq__)}),
    "the turns first": lambda said: orjson.dumps({name: said[name] for name in sorted(said, key="messages".__ne__)}),
}
GOES_ON = [*TURNS, {"role": "assistant", "content": 'Hi. "messages": [], ["}'}, {"role": "user", "content": "So?]}"}]


@pytest.mark.parametrize("write", WRITTEN.values(), ids=WRITTEN)
@pytest.mark.parametrize("said", SAID.values(), ids=SAID)
@pytest.mark.parametrize("dialect", ["openai-chat", "anthropic"])
def test_what_is_said_again_is_known_by_its_bytes(
    dialect: str, said: dict[str, Any], write: Callable[[Any], bytes]
) -> None:
    known: Settings = {}
    asked = ASKED | said | ({"system": "Be brief."} if dialect == "anthropic" else {})
    setting = kept(known, asked, dialect, write(asked))
    assert setting is not None
    other = asked | {"messages": GOES_ON}
    found = recalled(known, VISITOR, write(other))
    assert found is not None
    assert found[2] is setting
    assert document_of(found) == other
    assert found[1] == talk_of(DIALECTS[dialect].read_shape(other))
    before, behind = setting.lead
    assert before + found[4] + behind == splice.rewrite(write(other), model="native")
    assert recalled(known, object(), write(other)) is None  # type: ignore[arg-type]  # anybody else


SYSTEM: dict[str, list[str]] = {
    "one": ["Be brief."],
    "two": ["Be brief.", "Be kind."],
    "an empty one before another": ["", "Be brief."],
    "an empty one behind another": ["Be brief.", ""],
    "empty ones": ["", ""],
}


@pytest.mark.parametrize("texts", SYSTEM.values(), ids=SYSTEM)
def test_what_the_system_says_in_turns_is_put_together_as_elsewhere(texts: list[str]) -> None:
    known: Settings = {}
    assert kept(known, ASKED) is not None
    other = ASKED | {"messages": [*({"role": "system", "content": text} for text in texts), *TURNS]}
    found = recalled(known, VISITOR, orjson.dumps(other))
    assert found is not None
    assert found[1] == talk_of(DIALECTS["openai-chat"].read_shape(other))


OTHERS: dict[str, dict[str, Any]] = {
    "another value": {"max_tokens": 17},
    "an equal number of another type": {"max_tokens": 16.0},
    "true for one": {"n": True},
    "one member more": {"seed": 1},
    "another model": {"model": "slow"},
}


@pytest.mark.parametrize("said", OTHERS.values(), ids=OTHERS)
def test_what_differs_is_another_setting(said: dict[str, Any]) -> None:
    known: Settings = {}
    assert kept(known, ASKED | {"n": 1}) is not None
    assert recalled(known, VISITOR, orjson.dumps(ASKED | {"n": 1} | said)) is None


def test_requests_that_begin_alike_are_told_by_their_ends() -> None:
    known: Settings = {}
    ends: list[dict[str, Any]] = [{"stop": ["x"]}, {}, {"stop": ["y"]}, {"n": 1}]
    settings = [kept(known, ASKED | more) for more in ends]
    for more, setting in zip(ends, settings, strict=True):
        found = recalled(known, VISITOR, orjson.dumps(ASKED | more | {"messages": GOES_ON}))
        assert found is not None
        assert found[2] is setting is not None
    assert kept(known, ASKED | {"n": 2}) is not None
    assert recalled(known, VISITOR, orjson.dumps(ASKED | ends[0])) is None  # who came longest ago


UNKEPT: dict[str, dict[str, Any]] = {
    "a turn that is more than a text": {"messages": [{"role": "user", "content": "Hello.", "name": "Ann"}]},
    "a turn of a tool": {"messages": [{"role": "tool", "content": "7"}]},
    "a long word beside the turns": {"user": "x" * LONGEST},
    "a member with a say in who answers": {"prompt_cache_key": "one"},
    "no turns": {"messages": []},
}


@pytest.mark.parametrize("said", UNKEPT.values(), ids=UNKEPT)
def test_a_setting_is_not_kept_of(said: dict[str, Any]) -> None:
    assert kept({}, ASKED | said) is None


def test_of_what_comes_once_nothing_is_kept_and_of_others_no_more_than_so_many() -> None:
    known: Settings = {}
    for seed in range(MOST + 10):
        assert kept(known, {"seed": seed} | ASKED) is not None
        assert len(known) <= MOST
    track: Any = Going("openai-chat")
    keep(known, (VISITOR, b"once"), track, ASKED, b"", track.spoken.read_shape(ASKED))
    assert known[VISITOR, b"once"] == ()


def test_blanks_of_all_kinds_fill_no_memory() -> None:
    known: Settings = {}
    for blanks in range(MOST + 10):
        assert kept(known, ASKED, body=b" " * blanks + orjson.dumps(ASKED)) is not None
        assert len(known) <= MOST


def test_what_is_mostly_blanks_is_not_kept() -> None:
    for body in (orjson.dumps(ASKED) + b" " * 3 * LONGEST, b" " * 3 * LONGEST + orjson.dumps(ASKED)):
        assert kept({}, ASKED, body=body) is None


TEXTS = st.text(st.characters(codec="utf-8"), max_size=8) | st.sampled_from(
    ['"', "\\", '\\"', '"model"', '","model":"', '"messages":[', "]", "]}", "["]
)
SPOKEN = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "system", "developer", "tool", "x"]), "content": TEXTS | st.none()},
    optional={"name": TEXTS},
)


@given(
    turns=st.lists(SPOKEN, max_size=4),
    twice=st.sampled_from([b"", b'"model":"fast",', b'"messages":[],', b'"max_tokens":16,', b'"other":1,']),
    behind=st.booleans(),
    quote=st.sampled_from([b'\\"', b"\\u0022"]),
)
def test_whoever_is_known_again_would_have_passed_every_look(
    turns: list[dict[str, Any]], twice: bytes, behind: bool, quote: bytes
) -> None:
    known: Settings = {}
    assert kept(known, ASKED) is not None
    body = orjson.dumps(ASKED | {"messages": turns}).replace(b"\\\\", b"\\u005c").replace(b'\\"', quote)
    body = body[:-1] + b"," + twice[:-1] + b"}" if behind and twice else b"{" + twice + body[1:]
    found = recalled(known, VISITOR, body)
    if found is None:
        return
    dialect, document = DIALECTS["openai-chat"], orjson.loads(body)
    assert outline_of(document, dialect) is not None
    assert len(splice.members(body)) == len(document)
    assert document_of(found) == document
    assert found[1] == talk_of(dialect.read_shape(document))
    assert not dialect.read_shape(document).needs
    check_turns(document, "openai-chat")


BROKEN: dict[str, bytes] = {
    "no turns at all": b'{"model":"fast","max_tokens":16}',
    "an open array": b'{"model":"fast","messages":[,"max_tokens":16}',
    "two arrays": b'{"model":"fast","messages":[],[],"max_tokens":16}',
    "an array and more": b'{"model":"fast","messages":[{"role":"user","content":"a"}],"messages":[],"max_tokens":16}',
    "its beginning and end in one": b'{"model":"fast","messages":[],"max_tokens":16}'[:27] + b',"max_tokens":16}',
    "turns that are none": b'{"model":"fast","messages":["user"],"max_tokens":16}',
    "nothing": b"",
    "a name that ends": b'"messages"',
}


@pytest.mark.parametrize("body", BROKEN.values(), ids=BROKEN)
def test_what_only_looks_like_one_is_none(body: bytes) -> None:
    known: Settings = {}
    assert kept(known, ASKED) is not None
    assert recalled(known, VISITOR, body) is None


PACKAGE = Path(__file__).parents[3] / "proxy"
READERS = ("routing/facts.py", "server/intake.py", "server/express/outline.py", "server/express/track.py")


def test_what_is_left_of_a_cut_string_is_longer_than_any_word() -> None:
    """So a text whose middle is not read is never taken for one of those by which a request is judged."""
    rooms = (path for room in ("dialects", "ir") for path in PACKAGE.glob(f"{room}/**/*.py"))
    readers = [*rooms, *(PACKAGE / name for name in READERS)]
    trees = [ast.parse(path.read_text()) for path in readers]
    said = {str(it.value) for tree in trees for it in ast.walk(tree) if isinstance(it, ast.Constant)}
    words = {it for it in said if re.fullmatch(r"[\w./-]+", it)}
    assert {"messages", "image_url", "cache_control", "ephemeral"} <= words
    assert max(map(len, words)) < 2 * KEPT
