"""Whole answers of Gemini, its errors and its usage."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson
import pytest
from each import each
from sdk_reading import read_chat_answer, read_message

from proxy import errors, ir
from proxy.dialects import DIALECTS, UPSTREAMS, failures
from proxy.dialects.dialect import Reading, Voice
from proxy.dialects.gemini.grounding import Offsets
from proxy.dialects.gemini.usage import read_usage
from proxy.errors import Foreign, UpstreamBroken, UpstreamFailed

GEMINI, CHAT, MESSAGES = UPSTREAMS["gemini"], DIALECTS["openai-chat"], DIALECTS["anthropic"]
RESPONSES = DIALECTS["openai-responses"]
VOICE = Voice("req_1", "m", 7)
Json = dict[str, Any]


def answer(*parts: Json, reason: str | None = "STOP", **members: Any) -> Json:
    candidate: Json = {"content": {"role": "model", "parts": list(parts)}, "index": 0} | members
    if reason:
        candidate["finishReason"] = reason
    usage = {"promptTokenCount": 7, "candidatesTokenCount": 2, "totalTokenCount": 9}
    return {"candidates": [candidate], "usageMetadata": usage, "modelVersion": "gemini-x", "responseId": "r-1"}


def parts_of(body: Json) -> tuple[ir.Part, ...]:
    return GEMINI.codec().decode_answer(body).choices[0].parts


def said(text: str) -> Json:
    return {"text": text}


CALL = {"functionCall": {"name": "look", "args": {"at": "sea", "n": 12345678901234567890}}}
CODE = {"executableCode": {"language": "PYTHON", "code": "print(1)"}}
OUTCOME = {"codeExecutionResult": {"outcome": "OUTCOME_OK", "output": "1\n"}}
SEARCHED = {"toolCall": {"toolType": "GOOGLE_SEARCH_WEB", "id": "t1"}, "thoughtSignature": "Uw=="}
FOUND = {"toolResponse": {"toolType": "GOOGLE_SEARCH_WEB", "id": "t1"}}
RUNNING = '{"language":"PYTHON","code":"print(1)"}'

PARTS: dict[str, tuple[list[Json], tuple[ir.Part, ...]]] = {
    "a text in pieces": ([said("Hel"), said("lo")], (ir.Text("Hello"),)),
    "a text whose proof comes behind it": (
        [said("Hi"), {"text": "", "thoughtSignature": "Uw=="}], (ir.Text("Hi", signature="Uw=="),),
    ),
    "a thought": (
        [{"text": "Hm", "thought": True}, said("Hi")], (ir.Thinking("Hm", dialect="gemini"), ir.Text("Hi")),
    ),
    "a thought with its proof": (
        [{"text": "Hm", "thought": True, "thoughtSignature": "Uw=="}],
        (ir.Thinking("Hm", signature="Uw==", dialect="gemini"),),
    ),
    "an empty text": ([said("")], ()),
    "a call without an id": (
        [CALL], (ir.ToolCall("call_r-1_0", "look", '{"at":"sea","n":12345678901234567890}'),),
    ),
    "a call with its own id and a proof": (
        [{"functionCall": {"name": "look", "id": "abc"}, "thoughtSignature": "Uw=="}],
        (ir.ToolCall("abc", "look", "{}", signature="Uw=="),),
    ),
    "two calls": (
        [{"functionCall": {"name": "look"}}, {"functionCall": {"name": "look"}}],
        (ir.ToolCall("call_r-1_0", "look", "{}"), ir.ToolCall("call_r-1_1", "look", "{}")),
    ),
    "a picture": (
        [{"inlineData": {"mimeType": "image/png", "data": "AA=="}}], (ir.Image(ir.Blob("AA==", "image/png")),),
    ),
    "speech": (
        [{"inlineData": {"mimeType": "audio/L16;rate=24000", "data": "AA=="}}],
        (ir.Audio(ir.Blob("AA==", "audio/L16;rate=24000"), "L16"),),
    ),
    "code that was run": (
        [CODE, OUTCOME],
        (ir.ServerCall("", "code_execution", RUNNING, CODE, "gemini"),
         ir.ServerResult("", "code_execution", OUTCOME, "gemini")),
    ),
    "a search": (
        [SEARCHED, FOUND],
        (ir.ServerCall("t1", "google_search_web", '{"toolType":"GOOGLE_SEARCH_WEB","id":"t1"}', SEARCHED, "gemini"),
         ir.ServerResult("t1", "google_search_web", FOUND, "gemini")),
    ),
    "what comes next year": ([{"hologram": {}}], (ir.Opaque("hologram", {"hologram": {}}, "gemini"),)),
}  # fmt: skip


@each(("raw", "parts"), PARTS.values(), ids=PARTS)
def test_parts(raw: list[Json], parts: tuple[ir.Part, ...]) -> None:
    assert parts_of(answer(*raw)) == parts


# reason, whether a call was made -> stop, chat's word, Messages' word
STOPS = {
    "the end": ("STOP", False, "end", "stop", "end_turn"),
    "calls": ("STOP", True, "tool_call", "tool_calls", "tool_use"),
    "the bound": ("MAX_TOKENS", False, "length", "length", "max_tokens"),
    "safety": ("SAFETY", False, "filter", "content_filter", "refusal"),
    "recitation": ("RECITATION", False, "filter", "content_filter", "refusal"),
    "a forbidden word": ("BLOCKLIST", False, "filter", "content_filter", "refusal"),
    "a forbidden picture": ("IMAGE_SAFETY", False, "filter", "content_filter", "refusal"),
    "a word of tomorrow": ("TIRED", False, "unknown", "stop", "end_turn"),
}


@each(("reason", "called", "stop", "chat", "messages"), STOPS.values(), ids=STOPS)
def test_why_an_answer_ended(reason: str, called: bool, stop: str, chat: str, messages: str) -> None:
    decoded = GEMINI.codec().decode_answer(answer(said("Hi"), *([CALL] if called else []), reason=reason))
    assert (decoded.choices[0].stop, decoded.choices[0].native_stop) == (stop, reason)
    assert CHAT.codec().encode_answer(decoded, VOICE)["choices"][0]["finish_reason"] == chat
    assert MESSAGES.codec().encode_answer(decoded, VOICE)["stop_reason"] == messages


def test_a_blocked_prompt_is_an_answer_without_output() -> None:
    body = {"promptFeedback": {"blockReason": "SAFETY"}, "usageMetadata": {"promptTokenCount": 4, "totalTokenCount": 4}}
    decoded = GEMINI.codec().decode_answer(body)
    assert decoded.choices == (ir.Choice((), "filter", native_stop="SAFETY"),)
    assert (decoded.usage.input, decoded.usage.output) == (4, 0)
    assert CHAT.codec().encode_answer(decoded, VOICE)["choices"][0]["finish_reason"] == "content_filter"


def test_several_candidates_are_several_choices() -> None:
    body = answer(said("a"))
    body["candidates"].append(answer(said("b"))["candidates"][0] | {"index": 1})
    written = CHAT.codec().encode_answer(GEMINI.codec().decode_answer(body), VOICE)
    assert [choice["message"]["content"] for choice in written["choices"]] == ["a", "b"]


def test_the_facts_of_an_answer() -> None:
    body = answer(said("Hi")) | {"createTime": "2026-03-21T18:11:55.919086Z"}
    body["usageMetadata"]["serviceTier"] = "standard"
    decoded = GEMINI.codec().decode_answer(body)
    assert (decoded.id, decoded.model, decoded.created, decoded.service_tier) == (
        "r-1", "gemini-x", 1_774_116_715, "default",
    )  # fmt: skip


BROKEN: dict[str, Any] = {
    "nothing": None,
    "a list": [],
    "no members": {},
    "no candidates": {"candidates": []},
    "candidates of another kind": {"candidates": [1]},
    "parts of another kind": {"candidates": [{"content": {"parts": "x"}, "finishReason": "STOP"}]},
    "no output and no reason": answer(said(""), reason=None),
    "no output and a reason that says nothing": answer(reason="FINISH_REASON_UNSPECIFIED"),
}


@each("body", BROKEN.values(), ids=BROKEN)
def test_what_is_no_answer(body: Any) -> None:
    with pytest.raises(UpstreamBroken):
        GEMINI.check_answer(body)


def test_a_call_without_a_name_is_none() -> None:
    with pytest.raises(UpstreamBroken, match="name"):
        GEMINI.codec().decode_answer(answer({"functionCall": {"args": {}}}))


@pytest.mark.parametrize("reason", ["MALFORMED_FUNCTION_CALL", "UNEXPECTED_TOOL_CALL", "OTHER"])
def test_a_model_that_lost_its_way_is_asked_again(reason: str) -> None:
    with pytest.raises(UpstreamFailed, match=reason):
        GEMINI.check_answer(answer(reason=reason))


@pytest.mark.parametrize("wrapped", [False, True], ids=["as it is", "in an array"])
def test_an_error_under_a_200_is_an_error(wrapped: bool) -> None:
    body: Any = {"error": {"code": 503, "message": "busy", "status": "UNAVAILABLE"}}
    with pytest.raises(UpstreamFailed, match="busy"):
        GEMINI.check_answer([body] if wrapped else body)


# -- citations ---------------------------------------------------------------------------------------------------


def chunk(name: str) -> Json:
    return {"web": {"uri": f"https://{name}", "title": name}}


def support(start: int, end: int, *sources: int, part: int = 0) -> Json:
    segment = {"endIndex": end} | ({"startIndex": start} if start else {}) | ({"partIndex": part} if part else {})
    return {"segment": segment, "groundingChunkIndices": list(sources)}


def cited(body: Json) -> list[tuple[str | None, int | None, int | None]]:
    return [
        (citation.url, citation.start, citation.end)
        for part in parts_of(body)
        if isinstance(part, ir.Text)
        for citation in part.citations
    ]


def test_places_are_told_in_characters() -> None:
    text = "Grüße. Zwei 👋. 終わり。"
    end = len(text.encode())
    metadata = {
        "groundingChunks": [chunk("a"), chunk("b")],
        "groundingSupports": [support(0, 8, 0), support(9, 19, 0, 1), support(20, end, 1), support(20, end + 1, 0)],
    }
    found = cited(answer(said(text), groundingMetadata=metadata))
    assert [url for url, *_ in found] == ["https://a", "https://a", "https://b", "https://b", "https://a"]
    assert found[4][1:] == (None, None), "past the end of the text"
    assert [text[start:end] for _, start, end in found[:4]] == ["Grüße.", "Zwei 👋.", "Zwei 👋.", "終わり。"]


def test_places_count_from_their_own_part() -> None:
    metadata = {"groundingChunks": [chunk("a")], "groundingSupports": [support(1, 3, 0, part=2)]}
    parts = [said("äb"), CODE, said("cde")]
    assert cited(answer(*parts, groundingMetadata=metadata)) == [("https://a", 3, 5)]


def test_sources_without_a_place_are_told_all_the_same() -> None:
    assert cited(answer(said("x"), groundingMetadata={"groundingChunks": [chunk("a")]})) == [("https://a", None, None)]


@pytest.mark.parametrize("name", ["citationSources", "citations"], ids=["Gemini API", "Vertex AI"])
def test_recited_text_names_where_it_comes_from(name: str) -> None:
    metadata = {name: [{"startIndex": 0, "endIndex": 1, "uri": "https://a"}]}
    assert cited(answer(said("xy"), citationMetadata=metadata)) == [("https://a", 0, 1)]


@each("cut", range(1, 12))
def test_places_do_not_depend_on_how_the_text_came(cut: int) -> None:
    text = "aé終👋👋éé終終a" * 3
    offsets = Offsets()
    for at in range(0, len(text), cut):
        offsets.add(text[at : at + cut])
    assert [offsets.characters(len(text[:at].encode())) for at in range(len(text) + 1)] == list(range(len(text) + 1))


# -- usage -------------------------------------------------------------------------------------------------------

USAGE: dict[str, tuple[Any, ir.Usage]] = {
    "cached tokens are part of the prompt": (
        {"promptTokenCount": 100, "cachedContentTokenCount": 90, "candidatesTokenCount": 5, "totalTokenCount": 105},
        ir.Usage(input=10, cache_read=90, output=5),
    ),
    "thoughts are output": (
        {"promptTokenCount": 9, "candidatesTokenCount": 5, "thoughtsTokenCount": 30},
        ir.Usage(input=9, output=35, reasoning=30),
    ),
    "thoughts alone": ({"promptTokenCount": 9, "thoughtsTokenCount": 2}, ir.Usage(input=9, output=2, reasoning=2)),
    "what tools brought in is input": (
        {"promptTokenCount": 9, "toolUsePromptTokenCount": 70, "candidatesTokenCount": 5},
        ir.Usage(input=79, output=5),
    ),
    "a total that leaves no output": ({"promptTokenCount": 9, "totalTokenCount": 9}, ir.Usage(input=9, output=0)),
    "sound": (
        {"promptTokenCount": 9, "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 1},
                                                        {"modality": "AUDIO", "tokenCount": 8}],
         "candidatesTokenCount": 6, "candidatesTokensDetails": [{"modality": "AUDIO", "tokenCount": 6}]},
        ir.Usage(input=9, output=6, audio_input=8, audio_output=6),
    ),
    "the kind of traffic alone": ({"trafficType": "ON_DEMAND"}, ir.Usage()),
    "nonsense": (
        {"promptTokenCount": -1, "candidatesTokenCount": "5", "thoughtsTokenCount": 1e30, "totalTokenCount": None},
        ir.Usage(),
    ),
    "more cached than there was": (
        {"promptTokenCount": 5, "cachedContentTokenCount": 9}, ir.Usage(input=0, cache_read=5),
    ),
    "no object": ("x", ir.Usage()),
}  # fmt: skip


@each(("raw", "usage"), USAGE.values(), ids=USAGE)
def test_usage_in_disjoint_classes(raw: Any, usage: ir.Usage) -> None:
    assert read_usage(raw) == usage


# -- logprobs ----------------------------------------------------------------------------------------------------


def test_the_odds_of_words_in_openais_form() -> None:
    result = {
        "chosenCandidates": [{"token": "é", "tokenId": 3, "logProbability": -0.5}, {"token": "b"}],
        "topCandidates": [{"candidates": [{"token": "é", "logProbability": -0.5}]}],
    }
    choice = GEMINI.codec().decode_answer(answer(said("éb"), logprobsResult=result)).choices[0]
    top = [{"token": "é", "logprob": -0.5, "bytes": [195, 169]}]
    assert choice.logprobs == {
        "content": [
            {"token": "é", "logprob": -0.5, "bytes": [195, 169], "top_logprobs": top},
            {"token": "b", "logprob": 0.0, "bytes": [98], "top_logprobs": []},
        ],
        "refusal": None,
    }


# -- proofs, and what the SDKs read --------------------------------------------------------------------------------


SIGNED = answer(
    {"text": "Let me see.", "thoughtSignature": "VDE="},
    {"functionCall": {"name": "look", "args": {}, "id": "c1"}, "thoughtSignature": "UzE="},
    {"functionCall": {"name": "look", "args": {}, "id": "c2"}},
)
HELLO = {"role": "user", "content": "Hi"}


def through_chat() -> ir.Request:
    message = CHAT.codec().encode_answer(GEMINI.codec().decode_answer(SIGNED), VOICE)["choices"][0]["message"]
    results = [{"role": "tool", "tool_call_id": ident, "content": "x"} for ident in ("c1", "c2")]
    return CHAT.codec().decode_request({"model": "m", "messages": [HELLO, message, *results]})


def through_responses() -> ir.Request:
    output = RESPONSES.codec().encode_answer(GEMINI.codec().decode_answer(SIGNED), VOICE)["output"]
    results = [{"type": "function_call_output", "call_id": ident, "output": "x"} for ident in ("c1", "c2")]
    return RESPONSES.codec().decode_request({"model": "m", "input": [HELLO, *output, *results]})


def through_messages() -> ir.Request:
    content = MESSAGES.codec().encode_answer(GEMINI.codec().decode_answer(SIGNED), VOICE)["content"]
    results = [{"type": "tool_result", "tool_use_id": ident, "content": "x"} for ident in ("c1", "c2")]
    turns = [HELLO, {"role": "assistant", "content": content}, {"role": "user", "content": results}]
    return MESSAGES.codec().decode_request({"model": "m", "max_tokens": 9, "messages": turns})


PROOFS = {
    "chat": (through_chat, ["VDE=", "UzE=", None]),
    "responses": (through_responses, ["VDE=", "UzE=", None]),
    "messages, which has no place for them": (through_messages, [None, "skip_thought_signature_validator", None]),
}


@pytest.mark.parametrize(("through", "proofs"), PROOFS.values(), ids=PROOFS)
def test_proofs_come_back_where_they_stood(through: Callable[[], ir.Request], proofs: list[str | None]) -> None:
    """The client hands back what it got, and Gemini gets the proofs that it gave."""
    written = GEMINI.codec().encode_request(through(), ir.Target("gemini-3-flash-preview")).body["contents"]
    assert [part.get("thoughtSignature") for part in written[1]["parts"]] == proofs
    assert [part["functionResponse"]["id"] for part in written[2]["parts"]] == ["c1", "c2"]


def test_both_sdks_read_an_answer() -> None:
    decoded = GEMINI.codec().decode_answer(answer({"text": "Hm", "thought": True}, said("Hi"), CALL))
    chat = read_chat_answer(orjson.dumps(CHAT.codec().encode_answer(decoded, VOICE)))
    messages = read_message(orjson.dumps(MESSAGES.codec().encode_answer(decoded, VOICE)))
    assert (chat.text, chat.stop, messages.text, messages.stop) == ("Hi", "tool_calls", "Hi", "tool_use")
    assert [name for name, _ in chat.calls] == [name for name, _ in messages.calls] == ["look"]
    assert messages.thinking == "Hm"


# -- errors ------------------------------------------------------------------------------------------------------


def error(code: int, status: str, message: str, *details: Json) -> Json:
    return {"error": {"code": code, "message": message, "status": status, "details": list(details)}}


RETRY = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "48.5s"}
NO_KEY = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID"}
QUOTA = "You exceeded your current quota, please check your plan and billing details."

ERRORS: dict[str, tuple[Any, type[errors.UpstreamError], float | None]] = {
    "too many requests, with the time to wait": (
        error(429, "RESOURCE_EXHAUSTED", QUOTA, RETRY), errors.UpstreamRateLimited, 48.5,
    ),
    "a quota that does not come back": (error(429, "RESOURCE_EXHAUSTED", QUOTA), errors.UpstreamRefusedKey, None),
    "a key that nobody knows": (
        error(400, "INVALID_ARGUMENT", "API key not valid.", NO_KEY), errors.UpstreamRefusedKey, None,
    ),
    "a key that may not": (error(403, "PERMISSION_DENIED", "No."), errors.UpstreamRefusedKey, None),
    "too long a prompt": (
        error(400, "INVALID_ARGUMENT", "The input token count (1250074) exceeds the maximum number of tokens allowed"),
        errors.ContextTooLong, None,
    ),
    "an unknown model": (
        error(404, "NOT_FOUND", "models/x is not found for API version v1beta"), errors.UpstreamUnknownModel, None,
    ),
    "a fault of the request": (error(400, "INVALID_ARGUMENT", "Bad."), errors.UpstreamRejected, None),
    "too much to do": (error(503, "UNAVAILABLE", "The model is overloaded."), errors.UpstreamFailed, None),
    "too slow": (error(504, "DEADLINE_EXCEEDED", "Too late."), errors.UpstreamFailed, None),
}  # fmt: skip


@each(("body", "kind", "wait"), ERRORS.values(), ids=ERRORS)
@each("wrapped", [False, True], ids=["as it is", "in an array"])
def test_what_an_error_means(body: Any, kind: type[errors.UpstreamError], wait: float | None, wrapped: bool) -> None:
    status = body["error"]["code"]
    reading = GEMINI.read_error([body] if wrapped else body)
    found = failures.of_status(status, reading, Foreign(status, b""))
    assert reading.own
    assert type(found) is kind
    assert (found.retry_after, reading.message) == (wait, body["error"]["message"])


def test_a_header_that_tells_the_time_to_wait_goes_first() -> None:
    reading = GEMINI.read_error(error(429, "RESOURCE_EXHAUSTED", QUOTA, RETRY))
    assert failures.of_status(429, reading, Foreign(429, b""), retry_after=3.0).retry_after == 3.0


@each("delay", ["-1s", "1m", 5, None, "1e9s", "9" * 30 + "s"])
def test_a_time_to_wait_that_cannot_be_read_is_none(delay: object) -> None:
    assert GEMINI.read_error(error(429, "X", "y", {"retryDelay": delay})).retry_after is None


@each("body", [None, [], [1], {}, {"error": "x"}, {"error": {"message": 3}}, {"detail": "x"}])
def test_nobodys_json_is_no_error_of_gemini(body: Any) -> None:
    assert GEMINI.read_error(body) == Reading(False)
