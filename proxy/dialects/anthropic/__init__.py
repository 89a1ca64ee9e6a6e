"""The Messages API of Anthropic, and of whoever offers it too.

https://platform.claude.com/docs/en/api/messages · recorded traffic is what the tests read.
"""

from __future__ import annotations

from proxy.dialects.anthropic.answers import check_answer, check_count, decode_answer, encode_answer, parted_answer
from proxy.dialects.anthropic.blocks import NAME
from proxy.dialects.anthropic.faults import read_error, write_error
from proxy.dialects.anthropic.outgoing import encode_request
from proxy.dialects.anthropic.requests import decode_request
from proxy.dialects.anthropic.shape import read_shape
from proxy.dialects.anthropic.stream_decoder import StreamDecoder, text_mould
from proxy.dialects.anthropic.stream_encoder import MESSAGE_STOP, StreamEncoder
from proxy.dialects.anthropic.tap import PROBES, Tap, preamble
from proxy.dialects.anthropic.usage import usage_in, write_usage
from proxy.dialects.dialect import ClientCodec, Dialect, Operation, Words
from proxy.errors import Unsupported
from proxy.wire.likeness import Own

# For requests whose client named none, translated ones above all. The next, 2026-10-21, refuses temperature, top_p and
# top_k, which clients of other dialects send. https://platform.claude.com/docs/en/api/versioning
VERSION = "2023-06-01"


_PATHS = {"chat": "/v1/messages", "count_tokens": "/v1/messages/count_tokens"}


def path(operation: str, native: str, stream: bool) -> str:
    """Behind a base URL without /v1, as Anthropic's SDKs have it."""
    if operation not in _PATHS:
        raise Unsupported(f"The Messages API has no endpoint for {operation}.")
    return _PATHS[operation]


def credential(key: str) -> tuple[tuple[str, str], ...]:
    return (("x-api-key", key),)


TYPES: dict[str, tuple[type, ...]] = {
    "max_tokens": (int, float),
    "temperature": (int, float),
    "top_p": (int, float),
    "top_k": (int, float),
    "system": (str, list),
    "stop_sequences": (list,),
    "tools": (list,),
    "tool_choice": (dict,),
    "thinking": (dict,),
    "metadata": (dict,),
}


CODEC = ClientCodec(
    encode_request=encode_request,
    decode_answer=decode_answer,
    stream_decoder=StreamDecoder,
    decode_request=decode_request,
    encode_answer=encode_answer,
    stream_encoder=StreamEncoder,
)
DIALECT = Dialect(
    name=NAME,
    speaks=NAME,
    framing="sse",
    path=path,
    credential=credential,
    fixed_headers=(("anthropic-version", VERSION),),
    read_shape=read_shape,
    system_roles=(),
    codec=lambda: CODEC,
    check_answer=check_answer,
    parted_answer=parted_answer,
    write_usage=write_usage,
    tap=Tap,
    read_error=read_error,
    write_error=write_error,
    probes=PROBES,
    terminator=MESSAGE_STOP,
    operations={"count_tokens": Operation(read_shape, check_count)},
    types=TYPES,
    text_mould=text_mould,
    preamble=preamble,
    words=Words(Own(frozenset({b"id"}), (b"_tokens",)), usage_in),
    reads=frozenset(
        {"model", "stream", "max_tokens", "messages", "system", "tools", "tool_choice", "thinking", "output_config",
         "output_format", "metadata"}
    ),
)  # fmt: skip
