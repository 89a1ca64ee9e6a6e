"""Answers that are poured into what one before them became are what the translation makes of them."""

from __future__ import annotations

from typing import Any

import fuzz
import pytest
from each import each
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.dialects import DIALECTS, Dialect, Upstream
from proxy.dialects.dialect import Voice
from proxy.errors import GatewayError
from proxy.server.express.rewording import ID, LONGEST, MOST, TEXT, Rewording

CHAT, MESSAGES, RESPONSES = (DIALECTS[name] for name in ("openai-chat", "anthropic", "openai-responses"))
WAYS = [
    pytest.param(CHAT, MESSAGES, id="messages put into chat"),
    pytest.param(MESSAGES, CHAT, id="chat put into messages"),
]
MODEL = "fast"


def message(ident: Any, text: Any, tokens: tuple[Any, Any], **more: Any) -> dict[str, Any]:
    told = {
        "id": ident, "type": "message", "role": "assistant", "model": "native", "stop_reason": "end_turn",
        "content": [{"type": "text", "text": text}], "usage": {"input_tokens": tokens[0], "output_tokens": tokens[1]},
    }  # fmt: skip
    return told | more


def completion(ident: Any, text: Any, tokens: tuple[Any, Any], **more: Any) -> dict[str, Any]:
    told = {
        "id": ident, "object": "chat.completion", "created": 1_700_000_000 + len(str(text)), "model": "native",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": tokens[0], "completion_tokens": tokens[1]},
    }  # fmt: skip
    return told | more


def answer_in(dialect: Upstream, *own: Any, **more: Any) -> dict[str, Any]:
    return message(*own, **more) if dialect is MESSAGES else completion(*own, **more)


def told(way: Rewording, parsed: dict[str, Any], at: int, *, anew: bool) -> Any:
    voice = Voice(f"req_{at:032x}", MODEL, 1_800_000_000 + at)
    try:
        usage = way.dialect.check_answer(parsed)
        assert usage is not None
        if anew:
            return way._put(way.dialect.codec().decode_answer(parsed), voice)
        return way.answered(parsed, usage, voice.created, lambda: voice)
    except GatewayError as error:
        return type(error), error.message


TEXTS = ("Hello.", " with blanks \n", 'a "quote" and \\ more', "größer \U0001f9e8", ID, TEXT, "x" * 3000, "\ud83d", " ")
CALL = {"type": "function", "function": {"name": "f", "arguments": "{}"}}
KINDS: dict[str, dict[str, Any]] = {
    "as nearly all are": {},
    "a tier": {"service_tier": "default"},
    "members that nobody knows": {"x": {"y": [1, "z"]}},
    "no id": {"id": ""},
    "an id that is none": {"id": 7},
}
ONLY: dict[str, tuple[Dialect, dict[str, Any]]] = {
    "a cut answer": (MESSAGES, {"stop_reason": "max_tokens"}),
    "a stop sequence": (MESSAGES, {"stop_reason": "stop_sequence", "stop_sequence": "END"}),
    "two texts": (MESSAGES, {"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}),
    "an empty text": (MESSAGES, {"content": [{"type": "text", "text": ""}]}),
    "citations": (MESSAGES, {"content": [{"type": "text", "text": "a", "citations": [{"type": "web", "url": "u"}]}]}),
    "no citations": (MESSAGES, {"content": [{"type": "text", "text": "a", "citations": None}]}),
    "a call": (MESSAGES, {"content": [{"type": "tool_use", "id": "c", "name": "f", "input": {}}]}),
    "more of its usage": (
        MESSAGES,
        {"usage": {"input_tokens": 3, "cache_read_input_tokens": 5, "output_tokens": 2, "service_tier": "priority",
                   "server_tool_use": {"web_search_requests": 1}}},
    ),
    "a cut completion": (CHAT, {"choices": [{"message": {"content": "a"}, "finish_reason": "length"}]}),
    "reasoning": (CHAT, {"choices": [{"message": {"content": "a", "reasoning": "b"}, "finish_reason": "stop"}]}),
    "a text and a call without an id": (
        CHAT, {"choices": [{"message": {"content": "a", "tool_calls": [CALL]}, "finish_reason": "tool_calls"}]},
    ),
    "two choices": (CHAT, {"choices": [{"message": {"content": it}, "finish_reason": "stop"} for it in "ab"]}),
    "no message": (CHAT, {"choices": [{"finish_reason": "stop"}]}),
}  # fmt: skip


@each(("spoken", "dialect"), [param.values for param in WAYS])
@each("more", KINDS.values(), ids=KINDS)
def test_what_is_poured_is_what_is_translated(spoken: Dialect, dialect: Dialect, more: dict[str, Any]) -> None:
    way = Rewording(spoken, dialect)
    for at, text in enumerate((*TEXTS[:4], *TEXTS)):
        parsed = answer_in(dialect, f"id-{at}", text, (at * 7, at + 1), **more)
        assert told(way, parsed, at, anew=False) == told(way, parsed, at, anew=True)


@each(("spoken", "dialect"), [param.values for param in WAYS])
@each("text", TEXTS)
@each("ident", ["id-1", "\ud83d"])
def test_so_is_the_second_of_a_kind(spoken: Dialect, dialect: Dialect, text: str, ident: str) -> None:
    way = Rewording(spoken, dialect)
    for at, own in enumerate([("id-0", "Hello."), (ident, text), (ident, text), ("id-3", "Hello.")]):
        parsed = answer_in(dialect, *own, (at * 7, at + 1))
        assert told(way, parsed, at, anew=False) == told(way, parsed, at, anew=True)


@each(("dialect", "more"), ONLY.values(), ids=ONLY)
def test_so_is_whatever_else_an_answer_holds(dialect: Dialect, more: dict[str, Any]) -> None:
    way = Rewording(CHAT if dialect is MESSAGES else MESSAGES, dialect)
    for at in range(4):
        parsed = answer_in(dialect, f"id-{at}", "Hello.", (at, 1), **more)
        assert told(way, parsed, at, anew=False) == told(way, parsed, at, anew=True)


TOKENS = st.one_of(st.integers(-1, 10**13), st.none(), st.floats(allow_nan=False), st.text(max_size=2))


@pytest.mark.parametrize(("spoken", "dialect"), WAYS)
@settings(max_examples=fuzz.examples(100), deadline=None)
@given(st.lists(st.tuples(st.text(max_size=6), st.text(max_size=12), st.tuples(TOKENS, TOKENS)), min_size=4))
def test_so_is_whatever_is_said(spoken: Dialect, dialect: Dialect, said: list[tuple[Any, Any, Any]]) -> None:
    way = Rewording(spoken, dialect)
    for at, own in enumerate(said):
        parsed = answer_in(dialect, *own)
        assert told(way, parsed, at, anew=False) == told(way, parsed, at, anew=True)


@pytest.mark.parametrize(("spoken", "dialect"), WAYS)
def test_a_cast_is_made_of_the_second_answer_of_a_kind_and_there_are_no_more_than_so_many(
    spoken: Dialect, dialect: Dialect
) -> None:
    way = Rewording(spoken, dialect)
    made = []
    for at in range(3):
        told(way, answer_in(dialect, f"id-{at}", "Hello.", (1, 2)), at, anew=False)
        made.append([cast is not None for cast in way._casts.values()])
    assert made == [[False], [True], [True]]
    for at in range(MOST + 5):
        told(way, answer_in(dialect, "id", "Hello.", (1, 2), more=at), at, anew=False)
    told(way, answer_in(dialect, "id", "Hello.", (1, 2), more="x" * LONGEST), 0, anew=False)
    assert len(way._casts) <= MOST
    assert max(map(len, way._casts)) <= LONGEST


def test_a_dialect_whose_answers_hold_more_of_their_own_has_no_casts() -> None:
    way = Rewording(RESPONSES, MESSAGES)
    for at in range(3):
        told(way, answer_in(MESSAGES, f"id-{at}", "Hello.", (1, 2)), at, anew=False)
    assert not way._casts
