"""The API of Google's Gemini models, at the Gemini API and at Vertex AI. Spoken by providers alone.

https://ai.google.dev/api/generate-content · recorded traffic is what the tests read.
"""

from __future__ import annotations

from proxy.dialects.dialect import Codec, Upstream
from proxy.dialects.gemini.answer_reader import check_answer, decode_answer
from proxy.dialects.gemini.failure import read_error
from proxy.dialects.gemini.request_writer import encode_request
from proxy.dialects.gemini.stream_reader import StreamDecoder
from proxy.dialects.gemini.vocabulary import NAME
from proxy.errors import Unsupported
from proxy.wire.paths import in_path

_COLLECTIONS = ("models/", "tunedModels/")


def path(endpoint: str, native: str, stream: bool) -> str:
    """Behind a base URL without /v1beta, as Google's SDKs have it."""
    if endpoint != "chat":
        raise Unsupported(f"Gemini's endpoint for {endpoint} is not spoken here.")
    name = native if native.startswith(_COLLECTIONS) else f"models/{native}"
    method = "streamGenerateContent?alt=sse" if stream else "generateContent"
    return f"/v1beta/{in_path(name)}:{method}"


def credential(key: str) -> tuple[tuple[str, str], ...]:
    """Never as `?key=`: URLs end up in logs."""
    return (("x-goog-api-key", key),)


CODEC = Codec(encode_request, decode_answer, StreamDecoder)
DIALECT = Upstream(
    name=NAME,
    speaks=NAME,
    framing="sse",
    path=path,
    credential=credential,
    fixed_headers=(),
    codec=lambda: CODEC,
    check_answer=check_answer,
    read_error=read_error,
)
