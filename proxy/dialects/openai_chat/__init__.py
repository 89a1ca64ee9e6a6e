"""OpenAI's Chat Completions, and the many providers that speak it with an accent.

https://platform.openai.com/docs/api-reference/chat
"""

from __future__ import annotations

from functools import cache

from proxy.dialects.dialect import ClientCodec, Dialect, Words
from proxy.dialects.openai_chat.answer_check import check_answer, parted_answer
from proxy.dialects.openai_chat.chunks import text_mould
from proxy.dialects.openai_chat.failure import read_error, write_error
from proxy.dialects.openai_chat.operations import OPERATIONS
from proxy.dialects.openai_chat.relatives import takes_stream_options
from proxy.dialects.openai_chat.shape import SYSTEM_ROLES, read_shape
from proxy.dialects.openai_chat.tap import PROBES, Tap, own_at, preamble
from proxy.dialects.openai_chat.usage import counts_at, usage_alone, usage_in, write_usage
from proxy.dialects.openai_chat.vocabulary import NAME, READS, TYPES
from proxy.wire.likeness import Own


def path(operation: str, native: str, stream: bool) -> str:
    return "/chat/completions" if operation == "chat" else f"/{operation}"


def credential(key: str) -> tuple[tuple[str, str], ...]:
    return (("Authorization", f"Bearer {key}"),)


@cache
def codec() -> ClientCodec:
    from proxy.dialects.openai_chat.codec import CODEC  # with the whole IR, of which what passes needs next to nothing

    return CODEC


DIALECT = Dialect(
    name=NAME,
    speaks=NAME,
    framing="sse",
    path=path,
    credential=credential,
    fixed_headers=(),
    read_shape=read_shape,
    system_roles=SYSTEM_ROLES,
    codec=codec,
    check_answer=check_answer,
    parted_answer=parted_answer,
    write_usage=write_usage,
    tap=Tap,
    read_error=read_error,
    write_error=write_error,
    probes=PROBES,
    terminator=b"data: [DONE]\n\n",
    reads=READS,
    types=TYPES,
    asks_usage=takes_stream_options,
    text_mould=text_mould,
    operations=OPERATIONS,
    preamble=preamble,
    usage_alone=usage_alone,
    own_at=own_at,
    counts_at=counts_at,
    words=Words(Own(frozenset({b"id"}), (b"_tokens", b"created")), usage_in),
)
