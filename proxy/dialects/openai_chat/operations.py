"""What OpenAI-like providers can be asked for besides a conversation: completions, embeddings, images, audio,
moderations and rerank. Its bytes pass through; here stands what is read of them.

https://platform.openai.com/docs/api-reference · rerank, which OpenAI does not have: https://jina.ai/reranker
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from attrs import evolve

from proxy import ir
from proxy.dialects.dialect import Mend, Operation
from proxy.dialects.measure import dicts, whole
from proxy.dialects.openai_chat.answer_check import answered, check_answer
from proxy.dialects.openai_chat.usage import read_usage
from proxy.errors import UpstreamBroken

CHARS_PER_TOKEN = 4  # what stands in for the text of a prompt that came as token numbers
_WORDS = ("input", "prompt", "suffix", "instructions", "query", "documents")
_ReadUsage = Callable[[Mapping[str, Any]], ir.Usage | None]


# -- requests ----------------------------------------------------------------------------------------------------


def read_shape(body: Mapping[str, Any], *, output: bool) -> ir.Shape:
    """No needs: a model's capabilities are those of a conversation. Without `output` no token is ever written."""
    texts = [_measure(body.get(name)) for name in _WORDS]
    return ir.Shape(
        needs=frozenset(),
        chars=sum(chars for chars, _ in texts),
        media=sum(media for _, media in texts),
        max_tokens=whole(body.get("max_tokens")) if output else 0,
        n=(whole(body.get("best_of")) or whole(body.get("n")) or 1) * _prompts(body.get("prompt")) if output else 1,
    )


def _measure(value: Any) -> tuple[int, int]:
    """Characters and pictures of a text, of token numbers, of a list of either, and of moderations' typed parts."""
    chars = media = 0
    stack = [value]
    while stack:
        match stack.pop():
            case str() as text:
                chars += len(text)
            case [int(), *_] as tokens:
                chars += len(tokens) * CHARS_PER_TOKEN
            case list() as items:
                stack.extend(items)
            case {"text": str() as text}:
                chars += len(text)
            case dict():
                media += 1
    return chars, media


def _prompts(prompt: Any) -> int:
    """Each text of a list, and each list of token numbers, is completed by itself."""
    return len(prompt) if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int) else 1


# -- answers -----------------------------------------------------------------------------------------------------


def _check(parsed: Any, *, member: str, kind: type, read: _ReadUsage) -> ir.Usage | None:
    answer = answered(parsed)
    if not isinstance(answer.get(member), kind):
        raise UpstreamBroken(f"The provider's answer holds no {member}.")
    return read(answer)


def _check_vectors(parsed: Any) -> ir.Usage | None:
    usage = _check(parsed, member="data", kind=list, read=_input_usage)
    if not parsed["data"]:
        raise UpstreamBroken("The provider's answer holds no embedding.")
    return usage


def _check_any(parsed: Any) -> ir.Usage | None:
    return _usage(answered(parsed))


def _input_usage(answer: Mapping[str, Any]) -> ir.Usage | None:
    """Of what only reads: no output, which is known and no gap. Voyage and Jina give the total alone."""
    counted = answer.get("usage")
    if not isinstance(counted, dict):
        return None
    usage = read_usage({"prompt_tokens": counted.get("total_tokens"), **counted})
    return None if usage.input is None else evolve(usage, output=0, reasoning=None)


def _usage(answer: Mapping[str, Any]) -> ir.Usage | None:
    """Images and transcriptions count in Responses' words; a transcription by the minute has no tokens."""
    counted = answer.get("usage")
    if not isinstance(counted, dict):
        return None
    usage = read_usage(
        {
            "prompt_tokens": counted.get("input_tokens"),
            "completion_tokens": counted.get("output_tokens"),
            "total_tokens": counted.get("total_tokens"),
            "prompt_tokens_details": counted.get("input_tokens_details", counted.get("input_token_details")),
            "completion_tokens_details": counted.get("output_tokens_details"),
            **counted,
        }
    )
    return None if usage.input is None and usage.output is None else usage


# -- vectors -----------------------------------------------------------------------------------------------------


def mend_vectors(request: Mapping[str, Any]) -> Mend | None:
    """OpenAI's SDKs ask for base64 unless told otherwise, and decode whatever comes: a server that ignores the wish
    would have its floats taken for bytes."""
    return _encode_vectors if request.get("encoding_format") == "base64" else None


def _encode_vectors(answer: Any) -> Any:
    items = answer["data"]
    if not any(isinstance(item.get("embedding"), list) for item in dicts(items)):
        return None
    return {**answer, "data": [_encoded(item) for item in items]}


def _encoded(item: Any) -> Any:
    """One vector as float32, little-endian; a vector for each token, which no SDK decodes, stays as it came."""
    vector = item.get("embedding") if isinstance(item, dict) else None
    if not isinstance(vector, list) or (vector and isinstance(vector[0], list)):
        return item
    try:
        packed = struct.pack(f"<{len(vector)}f", *vector)
    except (struct.error, OverflowError) as exc:
        raise UpstreamBroken("The provider's answer holds an embedding that is not made of numbers.") from exc
    return {**item, "embedding": base64.b64encode(packed).decode()}


# -- by name -----------------------------------------------------------------------------------------------------

_reading = partial(read_shape, output=False)
_writing = partial(read_shape, output=True)
_results = partial(_check, member="results", kind=list, read=_input_usage)
_pictures = Operation(_writing, partial(_check, member="data", kind=list, read=_usage))
_transcript = Operation(_writing, partial(_check, member="text", kind=str, read=_usage), opaque=True)

OPERATIONS = {
    "completions": Operation(_writing, check_answer, framed=True),
    "embeddings": Operation(_reading, _check_vectors, mend_answer=mend_vectors),
    "images/generations": _pictures,
    "images/edits": _pictures,
    "images/variations": _pictures,
    "audio/transcriptions": _transcript,
    "audio/translations": _transcript,
    "audio/speech": Operation(_writing, _check_any, opaque=True),
    "moderations": Operation(_reading, _results),
    "rerank": Operation(_reading, _results),
}
