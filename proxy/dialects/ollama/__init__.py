"""Ollama's own API, at a server of yours or at ollama.com. Spoken by providers alone.

https://docs.ollama.com/api · recorded traffic is what the tests read.
"""

from __future__ import annotations

from proxy.dialects.dialect import Codec, Upstream
from proxy.dialects.ollama.answer_reader import NAME, StreamDecoder, check_answer, decode_answer, read_error
from proxy.dialects.ollama.request_writer import encode_request
from proxy.errors import Unsupported


def path(endpoint: str, native: str, stream: bool) -> str:
    """Behind a base URL without /api."""
    if endpoint != "chat":
        raise Unsupported(f"Ollama's own endpoint for {endpoint} is not spoken here; its openai-chat dialect has one.")
    return "/api/chat"


def credential(key: str) -> tuple[tuple[str, str], ...]:
    return (("Authorization", f"Bearer {key}"),)


CODEC = Codec(encode_request, decode_answer, StreamDecoder)
DIALECT = Upstream(
    name=NAME,
    speaks=NAME,
    framing="ndjson",
    path=path,
    credential=credential,
    fixed_headers=(),
    codec=lambda: CODEC,
    check_answer=check_answer,
    read_error=read_error,
)
