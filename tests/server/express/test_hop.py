"""Requests that are poured into what one before them became are what the translation makes of them."""

from __future__ import annotations

from typing import Any

import fuzz
import pytest
from each import each
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy import ir
from proxy.dialects import DIALECTS, UPSTREAMS, Dialect
from proxy.errors import GatewayError
from proxy.server.express import hop as module
from proxy.server.express.hop import Hop

TARGET = ir.Target("native", "house", 4096)
TEXTS = ("Hello.", " with blanks \n", 'a "quote" and \\ more', "größer \U0001f9e8 \x02mark 0\x03", "x" * 3000)
PAIRS = [
    pytest.param(spoken, UPSTREAMS[name], id=f"{spoken.name} put into {name}")
    for spoken in DIALECTS.values()
    for name in UPSTREAMS
    if spoken.name in ("openai-chat", "anthropic") and UPSTREAMS[name].speaks != spoken.speaks
]
ROLES = {
    "one turn": ("user",),
    "a system's turn before it": ("system", "user"),
    "a conversation": ("user", "assistant", "user"),
    "two turns of one role": ("user", "user", "assistant", "user"),
    "a system's turn amid others": ("user", "system", "user"),
    "an answer that is begun": ("user", "assistant"),
}


def asked(roles: tuple[str, ...], texts: tuple[str, ...], **more: Any) -> dict[str, Any]:
    turns = [{"role": role, "content": texts[at % len(texts)]} for at, role in enumerate(roles)]
    return {"model": "fast", "max_tokens": 50, "messages": turns, **more}


def told(hop: Hop, document: dict[str, Any], *, anew: bool) -> Any:
    try:
        return hop._put(document) if anew else hop.asked(document)
    except GatewayError as error:
        return type(error), error.message


@each(("spoken", "dialect"), PAIRS)
@each("roles", ROLES.values(), ids=ROLES)
def test_what_is_poured_is_what_is_translated(spoken: Dialect, dialect: Any, roles: tuple[str, ...]) -> None:
    hop = Hop(spoken, dialect, TARGET)
    for shift in range(len(TEXTS)):
        document = asked(roles, TEXTS[shift:] + TEXTS[:shift], temperature=0.5, stop=["a"] if shift % 2 else None)
        assert told(hop, document, anew=False) == told(hop, document, anew=True)


@settings(max_examples=fuzz.examples(60), deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["user", "assistant", "system"]), st.text(max_size=12)), min_size=1))
def test_whatever_is_said_is_poured_as_it_is_translated(turns: list[tuple[str, str]]) -> None:
    roles, texts = tuple(role for role, _ in turns), tuple(text for _, text in turns)
    for spoken, dialect in (("openai-chat", "anthropic"), ("anthropic", "openai-chat")):
        hop = Hop(DIALECTS[spoken], UPSTREAMS[dialect], TARGET)
        for said in (("Known.",), texts, texts):
            assert told(hop, asked(roles, said), anew=False) == told(hop, asked(roles, said), anew=True)


def test_the_second_of_a_kind_is_not_translated(monkeypatch: pytest.MonkeyPatch) -> None:
    hop = Hop(DIALECTS["openai-chat"], UPSTREAMS["anthropic"], TARGET)
    hop.asked(asked(("system", "user"), TEXTS))
    monkeypatch.setattr(Hop, "_put", lambda self, document: pytest.fail("it was translated"))
    turns = b'"messages":[{"role":"user","content":"Hello."}],"system":"Be brief."'
    body = hop.asked(asked(("system", "user"), ("Be brief.", "Hello.")))
    assert body == b'{"model":"native","max_tokens":50,%b}' % turns


OTHERS: dict[str, dict[str, Any]] = {
    "a turn of parts": {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hello."}]}]},
    "a turn with a name": {"messages": [{"role": "user", "content": "Hello.", "name": "eve"}]},
    "a turn of blanks": {"messages": [{"role": "user", "content": " "}, {"role": "user", "content": "Hello."}]},
    "much beside the turns": {"user": "x" * 3000},
    "a long conversation": {"messages": [{"role": "user", "content": "Hello."}] * 40},
}


@each("more", OTHERS.values(), ids=OTHERS)
def test_others_are_translated_each_time(more: dict[str, Any]) -> None:
    hop = Hop(DIALECTS["openai-chat"], UPSTREAMS["anthropic"], TARGET)
    document = asked(("user",), TEXTS) | more
    for _ in range(2):
        assert told(hop, document, anew=False) == told(hop, document, anew=True)
    assert not hop._casts


def test_there_is_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST", 3)
    hop = Hop(DIALECTS["openai-chat"], UPSTREAMS["anthropic"], TARGET)
    for number in range(8):
        hop.asked(asked(("user",), TEXTS, temperature=number / 10))
        assert len(hop._casts) <= 3
