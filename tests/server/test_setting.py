"""Settings: what is said beside the turns is known again only where nothing about the request has to be looked at."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.dialects import DIALECTS, Dialect
from proxy.server.intake import check_turns
from proxy.server.outline import beside_turns, outline_of
from proxy.server.setting import LONGEST, MOST, Key, Setting, Talk, keep
from proxy.wire import splice

VISITOR: Any = object()
TURNS = [{"role": "user", "content": "Hello."}]
ASKED: dict[str, Any] = {"model": "fast", "messages": TURNS, "max_tokens": 16}


class Going:
    """As much of a track as is asked here."""

    native = "native"

    def __init__(self, dialect: str) -> None:
        self.surface: Any = self
        self.spoken: Dialect = DIALECTS[dialect]


def key_of(visitor: Any, asked: dict[str, Any]) -> Key:
    beside = beside_turns(asked)
    assert beside is not None
    return visitor, beside


def kept(known: dict[Key, Setting | None], asked: dict[str, Any], dialect: str = "openai-chat") -> Setting | None:
    """What there is of it when it has come twice."""
    track: Any = Going(dialect)
    for _ in range(2):
        keep(known, key_of(VISITOR, asked), track, asked, orjson.dumps(asked), track.spoken.read_shape(asked))
    return known.get(key_of(VISITOR, asked))


SAID: dict[str, dict[str, Any]] = {
    "little": {},
    "another model": {"model": "slow"},
    "numbers": {"temperature": 0.5, "seed": 7, "n": 2},
    "texts": {"user": "ann", "reasoning_effort": "high"},
    "null": {"stop": None, "stream": None},
    "a list": {"stop": ["a", 'b"c']},
    "an object": {"stream": True, "stream_options": {"include_usage": True}},
    "a stream": {"stream": True},
}


@pytest.mark.parametrize("said", SAID.values(), ids=SAID)
@pytest.mark.parametrize("dialect", ["openai-chat", "anthropic"])
def test_what_is_said_again_is_known_by_its_values(dialect: str, said: dict[str, Any]) -> None:
    known: dict[Key, Setting | None] = {}
    asked = ASKED | said | ({"system": "Be brief."} if dialect == "anthropic" else {})
    setting = kept(known, asked, dialect)
    assert setting is not None
    other = asked | {"messages": [*TURNS, {"role": "assistant", "content": "Hi."}, {"role": "user", "content": "So?"}]}
    assert known[key_of(VISITOR, other)] is setting
    shape = DIALECTS[dialect].read_shape(other)
    assert setting.talk(other["messages"], orjson.dumps(other)) == Talk.of(shape)


OTHERS: dict[str, dict[str, Any]] = {
    "another value": {"max_tokens": 17},
    "an equal number of another type": {"max_tokens": 16.0},
    "true for one": {"n": True},
    "one member more": {"seed": 1},
    "another model": {"model": "slow"},
}


@pytest.mark.parametrize("said", OTHERS.values(), ids=OTHERS)
def test_what_differs_is_another_setting(said: dict[str, Any]) -> None:
    assert key_of(VISITOR, ASKED | {"n": 1}) != key_of(VISITOR, ASKED | {"n": 1} | said)
    assert key_of(VISITOR, ASKED) != key_of(object(), ASKED)


UNKEPT: dict[str, dict[str, Any]] = {
    "a turn that is more than a text": {"messages": [{"role": "user", "content": "Hello.", "name": "Ann"}]},
    "a turn of a tool": {"messages": [{"role": "tool", "content": "7"}]},
    "a long word beside the turns": {"user": "x" * LONGEST},
    "a member with a say in who answers": {"prompt_cache_key": "one"},
}


@pytest.mark.parametrize("said", UNKEPT.values(), ids=UNKEPT)
def test_a_setting_is_not_kept_of(said: dict[str, Any]) -> None:
    assert kept({}, ASKED | said) is None


def test_of_what_comes_once_nothing_is_kept_and_of_others_no_more_than_so_many() -> None:
    known: dict[Key, Setting | None] = {}
    for seed in range(MOST + 10):
        assert kept(known, ASKED | {"seed": seed}) is not None
        assert len(known) <= MOST
    track: Any = Going("openai-chat")
    keep(known, (VISITOR, b"once"), track, ASKED, b"", track.spoken.read_shape(ASKED))
    assert known[VISITOR, b"once"] is None


TEXTS = st.text(st.characters(codec="utf-8"), max_size=8) | st.sampled_from(
    ['"', "\\", '\\"', '"model"', '","model":"']
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
    setting = kept({}, ASKED)
    assert setting is not None
    body = orjson.dumps(ASKED | {"messages": turns}).replace(b"\\\\", b"\\u005c").replace(b'\\"', quote)
    body = body[:-1] + b"," + twice[:-1] + b"}" if behind and twice else b"{" + twice + body[1:]
    document = orjson.loads(body)
    talk = setting.talk(turns, body) if key_of(VISITOR, document) == key_of(VISITOR, ASKED) else None
    dialect = DIALECTS["openai-chat"]
    outline = outline_of(document, dialect)
    if talk is None:
        return
    assert outline is not None
    assert len(splice.members(body)) == len(document)
    assert talk == Talk.of(dialect.read_shape(document))
    assert not dialect.read_shape(document).needs
    check_turns(document, "openai-chat")
