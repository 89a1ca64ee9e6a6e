"""What is read of embeddings, images, audio and the like; and vectors put into the form that was asked for."""

from __future__ import annotations

import base64
import struct
from typing import Any

import pytest
from each import each

from proxy import errors, ir
from proxy.dialects import openai_chat, workers_ai
from proxy.errors import UpstreamBroken, UpstreamError

OPERATIONS = openai_chat.DIALECT.operations

# -- requests ----------------------------------------------------------------------------------------------------

DEEP: list[Any] = []
for _ in range(2_000):
    DEEP = [DEEP]

SHAPES: dict[str, tuple[str, dict[str, Any], ir.Shape]] = {
    "a text": ("embeddings", {"input": "four"}, ir.Shape(frozenset(), 4, max_tokens=0)),
    "texts": ("embeddings", {"input": ["four", "two"], "n": 9}, ir.Shape(frozenset(), 7, max_tokens=0)),
    "token numbers": ("embeddings", {"input": [1, 2, 3]}, ir.Shape(frozenset(), 12, max_tokens=0)),
    "lists of them": ("embeddings", {"input": [[1, 2], [3]]}, ir.Shape(frozenset(), 12, max_tokens=0)),
    "nothing": ("embeddings", {}, ir.Shape(frozenset(), 0, max_tokens=0)),
    "nonsense": ("embeddings", {"input": {"deep": [None]}}, ir.Shape(frozenset(), 0, 1, max_tokens=0)),
    "nested past all sense": ("embeddings", {"input": DEEP}, ir.Shape(frozenset(), 0, max_tokens=0)),
    "text and picture": (
        "moderations",
        {"input": [{"type": "text", "text": "four"}, {"type": "image_url", "image_url": {"url": "https://x"}}]},
        ir.Shape(frozenset(), 4, 1, max_tokens=0),
    ),
    "documents": (
        "rerank", {"query": "who", "documents": ["a", {"text": "b"}]}, ir.Shape(frozenset(), 5, max_tokens=0),
    ),
    "a completion": ("completions", {"prompt": "four", "max_tokens": 9}, ir.Shape(frozenset(), 4, max_tokens=9)),
    "completions": ("completions", {"prompt": ["a", "b"], "n": 3}, ir.Shape(frozenset(), 2, n=6)),
    "the best of many": ("completions", {"prompt": [1, 2], "n": 1, "best_of": 4}, ir.Shape(frozenset(), 8, n=4)),
    "pictures": ("images/generations", {"prompt": "four", "n": 2}, ir.Shape(frozenset(), 4, n=2)),
}  # fmt: skip


@each(("operation", "body", "shape"), SHAPES.values(), ids=SHAPES)
def test_routing_knows_how_much_there_is_to_read_and_to_write(
    operation: str, body: dict[str, Any], shape: ir.Shape
) -> None:
    assert OPERATIONS[operation].read_shape(body) == shape


# -- answers -----------------------------------------------------------------------------------------------------

GOOD: dict[str, tuple[str, dict[str, Any], ir.Usage | None]] = {
    "embeddings": (
        "embeddings",
        {"object": "list", "data": [{"embedding": [0.1]}], "usage": {"prompt_tokens": 3, "total_tokens": 3}},
        ir.Usage(input=3, output=0),
    ),
    "embeddings counted by their total": (
        "embeddings", {"data": [{"embedding": "AAAA"}], "usage": {"total_tokens": 3}}, ir.Usage(input=3, output=0),
    ),
    "a completion": (
        "completions",
        {"choices": [{"text": "hi", "finish_reason": None}], "usage": {"prompt_tokens": 2, "completion_tokens": 1}},
        ir.Usage(input=2, output=1),
    ),
    "an empty completion with a reason": ("completions", {"choices": [{"text": "", "finish_reason": "stop"}]}, None),
    "a picture without usage": ("images/generations", {"created": 1, "data": [{"url": "https://x"}]}, None),
    "a picture": (
        "images/generations",
        {"data": [{"b64_json": "aGk="}], "usage": {"input_tokens": 5, "output_tokens": 70, "total_tokens": 75,
         "input_tokens_details": {"text_tokens": 5, "image_tokens": 0}}},
        ir.Usage(input=5, output=70),
    ),
    "a transcription": (
        "audio/transcriptions",
        {"text": "hello", "usage": {"type": "tokens", "input_tokens": 14, "output_tokens": 4, "total_tokens": 18,
         "input_token_details": {"text_tokens": 4, "audio_tokens": 10}}},
        ir.Usage(input=14, output=4, audio_input=10),
    ),
    "a transcription by the minute": (
        "audio/transcriptions", {"text": "", "usage": {"type": "duration", "seconds": 9}}, None,
    ),
    "a judgement": ("moderations", {"id": "x", "results": [{"flagged": False}]}, None),
    "a ranking": ("rerank", {"results": [], "usage": {"total_tokens": 8}}, ir.Usage(input=8, output=0)),
    "speech in JSON": ("audio/speech", {"audio": "aGk="}, None),
}  # fmt: skip


@each(("operation", "parsed", "usage"), GOOD.values(), ids=GOOD)
def test_a_good_answer_says_what_it_cost(operation: str, parsed: dict[str, Any], usage: ir.Usage | None) -> None:
    assert OPERATIONS[operation].check_answer(parsed) == usage


@each("operation", OPERATIONS)
def test_what_is_no_answer_is_an_error(operation: str) -> None:
    check = OPERATIONS[operation].check_answer
    nothing: tuple[Any, ...] = (None, [], "x")
    for nonsense in nothing:
        with pytest.raises(UpstreamBroken):
            check(nonsense)
    if operation != "audio/speech":  # whose JSON nobody has described
        with pytest.raises(UpstreamBroken):
            check({})
    with pytest.raises(errors.UpstreamOverloaded):
        check({"error": {"message": "x", "type": "overloaded_error"}})


def test_no_vector_at_all_is_no_answer() -> None:
    with pytest.raises(UpstreamBroken):
        OPERATIONS["embeddings"].check_answer({"data": []})


def test_workers_ai_fails_in_its_own_envelope_here_too() -> None:
    failed = {"success": False, "errors": [{"code": 3040, "message": "out of capacity"}]}
    with pytest.raises(errors.UpstreamRateLimited):
        workers_ai.DIALECT.operations["embeddings"].check_answer(failed)


# -- vectors -----------------------------------------------------------------------------------------------------


def mended(answer: dict[str, Any], **asked: Any) -> Any:
    mend_answer = OPERATIONS["embeddings"].mend_answer
    assert mend_answer is not None
    mend = mend_answer(asked)
    return None if mend is None else mend(answer)


def test_floats_become_little_endian_float32_where_base64_was_asked() -> None:
    item = {"object": "embedding", "index": 0, "embedding": [0.5, -1, 3.25]}
    answer = {"object": "list", "data": [item, {**item, "embedding": "AAAA"}], "model": "m", "big": 2**63}
    vector = base64.b64encode(struct.pack("<3f", 0.5, -1, 3.25)).decode()
    assert mended(answer, encoding_format="base64") == {
        **answer, "data": [{**item, "embedding": vector}, {**item, "embedding": "AAAA"}],
    }  # fmt: skip


UNTOUCHED: dict[str, tuple[Any, dict[str, Any]]] = {
    "floats that were asked for": ([0.5], {"encoding_format": "float"}),
    "floats that nobody spoke of": ([0.5], {}),
    "base64 that was asked for": ("AAAA", {"encoding_format": "base64"}),
    "other types of number": ({"int8": [1]}, {"encoding_format": "base64"}),
}


@each(("vector", "asked"), UNTOUCHED.values(), ids=UNTOUCHED)
def test_everything_else_stays_as_it_came(vector: Any, asked: dict[str, Any]) -> None:
    assert mended({"data": [{"embedding": vector}]}, **asked) is None


def test_a_vector_for_each_token_stays_as_it_came() -> None:
    answer = {"data": [{"embedding": [[0.5], [0.25]]}]}
    assert mended(answer, encoding_format="base64") == answer


@pytest.mark.parametrize("vector", [[None], ["a"], [1e300]], ids=["null", "text", "too large"])
def test_what_is_no_vector_is_an_error(vector: list[Any]) -> None:
    with pytest.raises(UpstreamError):
        mended({"data": [{"embedding": vector}]}, encoding_format="base64")
