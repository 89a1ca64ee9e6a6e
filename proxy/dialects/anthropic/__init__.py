"""The Messages API of Anthropic, and of whoever offers it too.

https://platform.claude.com/docs/en/api/messages · recorded traffic is what the tests read.
"""

from __future__ import annotations

from proxy.dialects.anthropic.answers import check_answer, decode_answer, encode_answer
from proxy.dialects.anthropic.blocks import NAME
from proxy.dialects.anthropic.faults import read_error, write_error
from proxy.dialects.anthropic.outgoing import encode_request
from proxy.dialects.anthropic.requests import decode_request
from proxy.dialects.anthropic.shape import read_shape
from proxy.dialects.anthropic.stream_decoder import StreamDecoder
from proxy.dialects.anthropic.stream_encoder import MESSAGE_STOP, StreamEncoder
from proxy.dialects.anthropic.tap import PROBES, Tap
from proxy.dialects.dialect import Dialect
from proxy.errors import Unsupported

VERSION = "2023-06-01"  # the only one there is; what changed since is told by `anthropic-beta`


def path(endpoint: str, native: str, stream: bool) -> str:
    """Behind a base URL without /v1, as Anthropic's SDKs have it."""
    if endpoint != "chat":
        raise Unsupported(f"The Messages API has no endpoint for {endpoint}.")
    return "/v1/messages"


def credential(key: str) -> tuple[tuple[str, str], ...]:
    return (("x-api-key", key),)


DIALECT = Dialect(
    name=NAME,
    speaks=NAME,
    framing="sse",
    path=path,
    credential=credential,
    fixed_headers=(("anthropic-version", VERSION),),
    read_shape=read_shape,
    decode_request=decode_request,
    encode_request=encode_request,
    decode_answer=decode_answer,
    encode_answer=encode_answer,
    check_answer=check_answer,
    stream_decoder=StreamDecoder,
    stream_encoder=StreamEncoder,
    tap=Tap,
    read_error=read_error,
    write_error=write_error,
    probes=PROBES,
    terminator=MESSAGE_STOP,
    reads=frozenset(
        {"model", "stream", "max_tokens", "messages", "system", "tools", "tool_choice", "thinking", "output_config",
         "output_format", "metadata"}
    ),
)  # fmt: skip
