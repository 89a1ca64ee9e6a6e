"""Streams of one kind, each with an id and numbers of its own, for what is learnt of some and told of others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from attrs import frozen
from hypothesis import strategies as st
from playbook import CHAT, MESSAGES, chunk, event

from proxy.dialects import DIALECTS
from proxy.dialects.dialect import Dialect, Voice
from proxy.streams import Translation

Frames = list[bytes]
ENDED = {"stop_reason": "end_turn", "stop_sequence": None}
SOURCE = {"type": "web_search_result_location", "url": "http://a", "title": "A", "cited_text": "x"}


def message_frames(number: int, *texts: str, **usage: Any) -> Frames:
    """Of one stream of many: with an id and numbers of its own."""
    begun = {"input_tokens": 100 + number, "cache_read_input_tokens": number % 3, "output_tokens": 1} | usage
    message = {"id": f"msg_{number}x", "type": "message", "role": "assistant", "model": "native", "content": []}
    return [
        event("message_start", message={**message, "stop_reason": None, "usage": begun}),
        event("content_block_start", index=0, content_block={"type": "text", "text": ""}),
        event("ping"),
        *map(MESSAGES.text, texts),
        event("content_block_stop", index=0),
        event("message_delta", delta=ENDED, usage={"output_tokens": number}),
        event("message_stop"),
    ]  # fmt: skip


def chat_frames(number: int, *texts: str, **usage: Any) -> Frames:
    told = {"prompt_tokens": 7 + number, "completion_tokens": number, "total_tokens": 7 + 2 * number} | usage
    frames = [*CHAT.stream(*texts)[:-1], chunk(None, usage=told), CHAT.end]
    own = b"chatcmpl-%dx" % number, b'"created":%d' % (1_760_000_000 + number)
    return [raw.replace(b"chatcmpl-1", own[0]).replace(b'"created":1', own[1]) for raw in frames]


@frozen
class Way:
    """From a provider's dialect to a client's."""

    theirs: Dialect
    ours: Dialect
    frames: Callable[..., Frames]
    text: Callable[[str], bytes]
    include_usage: bool = True

    def voice(self, number: int) -> Voice:
        return Voice(f"req_{number}", "asked-for", 1_700_000_000 + number, self.include_usage)

    def learn(self) -> None:
        for number in range(2):
            Translation(self.theirs, self.ours, self.voice(number)).feed(b"".join(self.frames(number, "Hi")))


WAYS = {
    "messages for a chat": Way(DIALECTS["anthropic"], DIALECTS["openai-chat"], message_frames, MESSAGES.text),
    "messages for a chat without usage": Way(
        DIALECTS["anthropic"], DIALECTS["openai-chat"], message_frames, MESSAGES.text, include_usage=False
    ),
    "a chat for messages": Way(DIALECTS["openai-chat"], DIALECTS["anthropic"], chat_frames, CHAT.text),
}
all_ways = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)

NUMBERS = st.one_of(
    st.integers(0, 3), st.integers(-2, 10**13), st.none(), st.floats(0, 100), st.booleans(), st.just("1")
)
NAMES = (
    "input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens", "prompt_tokens",
    "completion_tokens", "total_tokens", "prompt_cache_hit_tokens",
)  # fmt: skip
DETAILS = {
    "cache_creation": ("ephemeral_5m_input_tokens", "ephemeral_1h_input_tokens"),
    "prompt_tokens_details": ("cached_tokens", "audio_tokens", "cache_write_tokens"),
    "completion_tokens_details": ("reasoning_tokens", "audio_tokens"),
}
USAGES = st.builds(
    lambda flat, deep: flat | deep,
    st.fixed_dictionaries({}, optional=dict.fromkeys(NAMES, NUMBERS)),
    st.fixed_dictionaries(
        {},
        optional={
            name: st.fixed_dictionaries({}, optional=dict.fromkeys(members, NUMBERS))
            for name, members in DETAILS.items()
        },
    ),
)
