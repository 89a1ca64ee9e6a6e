"""What every recording cost: token classes that sum to the provider's own totals, and the price library's own sum."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import pytest

from proxy import ir
from proxy.catalog import load_prices
from proxy.dialects import DIALECTS, UPSTREAMS
from proxy.dialects.dialect import Voice
from proxy.streams import Passthrough, Translation

from .recordings import EVERY, Recording, documents, parametrized

FRAMING = {"ollama": "ndjson"}
# The folder's provider, where it is not that of the recording's own name, as the price list calls it.
HOUSES = {"openai-chat": "openai", "openai-responses": "openai", "anthropic-messages": "anthropic", "gemini": "google"}
AT = datetime(2026, 6, 1, 12, tzinfo=UTC)


def ours(recording: Recording) -> ir.Usage | None:
    dialect = UPSTREAMS[recording.spoken]
    if not recording.stream:
        return dialect.check_answer(documents(recording.body, stream=False)[0])
    voice = Voice("req_0", "m", 0)
    stream = (
        Passthrough(DIALECTS[recording.spoken], voice)
        if recording.spoken in DIALECTS
        else Translation(dialect, DIALECTS["openai-chat"], voice)
    )
    stream.feed(recording.body)
    if not stream.done:
        stream.close()
    return stream.usage


def reports(recording: Recording) -> Iterator[dict[str, Any]]:
    """Every object that tells usage, as it came."""
    for document in documents(recording.body, stream=recording.stream, framing=FRAMING.get(recording.spoken, "sse")):
        if document.get("type") == "message_stop":
            return  # two recordings have another message behind it
        for holder in (
            document,
            document.get("message") or {},
            document.get("response") or {},
            document.get("x_groq") or {},
        ):
            if isinstance(holder, dict):
                told = holder.get("usage") or holder.get("usageMetadata")
                if isinstance(told, dict):
                    yield told
        if "eval_count" in document:  # Ollama's are members of the last record itself
            yield {name: document.get(name, 0) for name in ("prompt_eval_count", "eval_count")}


def totals(recording: Recording) -> tuple[int, int] | None:
    """All input and all output, in the provider's own words; None where it tells none."""
    told: dict[str, Any] = {}
    for report in reports(recording):
        if told and not any(value for value in report.values() if isinstance(value, int)):
            continue  # some end with a report of nothing, which takes nothing back
        told |= {name: value for name, value in report.items() if value is not None}
    if "promptTokenCount" in told:
        read = told["promptTokenCount"] + told.get("toolUsePromptTokenCount", 0)
        return read, told.get("candidatesTokenCount", 0) + told.get("thoughtsTokenCount", 0)
    if recording.spoken == "anthropic" and "input_tokens" in told:
        cached = told.get("cache_read_input_tokens", 0) + told.get("cache_creation_input_tokens", 0)
        return told["input_tokens"] + cached, told.get("output_tokens", 0)
    if "eval_count" in told:
        return told["prompt_eval_count"], told["eval_count"]
    if "input_tokens" in told:
        return told["input_tokens"], told.get("output_tokens", 0)
    if "prompt_tokens" in told and "total_tokens" in told:
        return told["prompt_tokens"], told["total_tokens"] - told["prompt_tokens"]
    return None


def has_usage(recording: Recording) -> bool:
    return recording.good and totals(recording) is not None


every = parametrized(has_usage, among=EVERY)
TELLS = re.compile(r'"(?:prompt_tokens|input_tokens|promptTokenCount|eval_count)": ?[1-9]')


def test_no_recording_that_tells_usage_is_left_out() -> None:
    """Whatever the readers above make of it: whose text has a count of tokens."""
    telling = {recording.name for recording in EVERY if recording.good and TELLS.search(recording.text)}
    assert telling == {recording.name for recording in EVERY if has_usage(recording)}


@every
def test_classes_of_tokens_sum_to_the_providers_own_totals(recording: Recording) -> None:
    usage, told = ours(recording), totals(recording)
    assert usage is not None
    assert told is not None
    assert (usage.input_total, usage.output) == told
    for part, whole in (("reasoning", usage.output), ("audio_output", usage.output), ("audio_input", usage.input)):
        assert (getattr(usage, part) or 0) <= (whole or 0)
    assert all((getattr(usage, name) or 0) >= 0 for name in ("input", "cache_read", "cache_write_5m", "cache_write_1h"))


def house_of(recording: Recording) -> str:
    folder, _, name = recording.dialect.partition("/")
    return name or HOUSES.get(folder, folder)


def model_of(recording: Recording) -> str | None:
    asked = (recording.request or {}).get("model")
    told = [
        holder.get("model") or holder.get("modelVersion")
        for document in documents(recording.body, stream=recording.stream, framing=FRAMING.get(recording.spoken, "sse"))
        for holder in (document, document.get("message") or {}, document.get("response") or {})
        if isinstance(holder, dict)
    ]
    return next(filter(None, told), asked)


def theirs(usage: ir.Usage, provider: str, model: str) -> int | None:
    """Nano-USD by the library that our prices come from; None where it has none."""
    library: Any = pytest.importorskip("genai_prices", reason="pip install genai-prices")
    counts = {
        "input_tokens": usage.input_total,
        "cache_read_tokens": usage.cache_read or 0,
        "cache_write_tokens": (usage.cache_write_5m or 0) + (usage.cache_write_1h or 0),
        "output_tokens": usage.output or 0,
        "input_audio_tokens": usage.audio_input or 0,
        "output_audio_tokens": usage.audio_output or 0,
    }
    try:
        found = library.calc_price(
            library.Usage(**counts), model_ref=model, provider_id=provider, genai_request_timestamp=AT
        )
    except LookupError:
        return None
    nanos: int = round(found.total_price * 10**9)
    return nanos


# Who has no price, in our list as in the library's: vendors that it does not know, and models that these do not list.
UNPRICED = {
    "oc-alibaba-va-alibaba-text": "vendor",
    "oc-alibaba-va-alibaba-tool-call": "vendor",
    "oc-crusoe-pa-crusoe-tool-calling": "vendor",
    "oc-gpustack-rl-function-calling-gpustack-qwen3-can-use-tools-in-multi-turn": "a server of one's own",
    "oc-heroku-pa-heroku-model-provider-claude-3-7-sonnet": "vendor",
    "oc-huggingface-pa-cancel-recorded-provider-stream-huggingface": "a router to vendors with prices of their own",
    "oc-huggingface-pa-image-as-binary-content-input": "a router to vendors with prices of their own",
    "oc-ollama-pa-ollama-cloud-prompted-output": "vendor",
    "oc-ollama-rl-function-calling-can-use-tools-with-multi-turn-streaming-con": "vendor",
    "oc-openrouter-pa-openrouter-stream-error": "model: minimax-m2:free",
    "oc-snowflake-pa-snowflake-tool-calling": "vendor",
    "oc-together-pa-hf-model-instructions": "model: DeepSeek-R1",
    "oc-together-pa-hf-model-thinking-part": "model: DeepSeek-R1",
    "oc-xai-pr-generate-text-with-multiple-tools-3": "model: grok-beta",
    "oc-zai-pr-generate-text-with-required-tool-call-1": "model: z-model",
    "rc-bedrock-mantle-rl-providers-bedrock-mantle-responses-chat-calls-tools-through": "model: openai.gpt-oss-20b",
    "rc-lmstudio-va-lmstudio-tool-call-1": "a server of one's own",
    "rc-lmstudio-va-lmstudio-tool-call-2": "a server of one's own",
}


@every
def test_the_cost_is_the_price_librarys_own(recording: Recording) -> None:
    """To the nano-dollar; and where the library has no price, ours is unknown, not a guess and not zero."""
    usage, book, model = ours(recording), load_prices(), model_of(recording) or ""
    assert usage is not None
    provider = book.provider(house_of(recording))
    quote = book.find(house_of(recording), model, at=AT) if provider and model else None
    expected = theirs(usage, provider or house_of(recording), model)
    assert not usage.cache_write_1h, "the library has no word for it: compare its two parts"
    assert f"genai-prices {version('genai-prices')}" == book.library, (
        "the list is that of another version: `make prices`"
    )
    local = recording.spoken == "ollama"  # the folder of one's own machines, on which nobody takes money
    assert (quote is None) == (local or recording.name in UNPRICED)
    assert (None if quote is None else quote.price.cost_nanos(usage)) == expected
