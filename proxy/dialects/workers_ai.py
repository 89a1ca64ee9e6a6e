"""Cloudflare's Workers AI: OpenAI's chat dialect, with what its own servers do otherwise put right on the way.

Bytes pass through as openai-chat. What is mended:

- requests: some of its models take `content` as a string only ("Bad input" otherwise): null and arrays of text
- streams: choices without `index`; the native stream, `{"response": …}`, which some models send all the same
- answers: the native envelope, `{"result": …, "success": true}`
- errors: `{"success": false, "errors": [{"code": …, "message": …}]}`, also under a 200

A provider whose base URL ends in `/ai/run`, or in `/workers-ai` as at Cloudflare's AI Gateway, is asked natively: the
model stands in the path, and neither it nor OpenAI's stream options in the body.

https://developers.cloudflare.com/workers-ai/configuration/open-ai-compatibility/
https://developers.cloudflare.com/workers-ai/platform/errors/
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from attrs import evolve

from proxy import ir
from proxy.dialects import failures, openai_chat
from proxy.dialects.dialect import Dialect, Operation, Reading
from proxy.dialects.openai_chat.chunks import DONE
from proxy.dialects.openai_chat.codec import CODEC as CHAT
from proxy.dialects.openai_chat.failure import failure_in
from proxy.dialects.openai_chat.stream_reader import StreamDecoder
from proxy.dialects.openai_chat.tap import Tap
from proxy.errors import UpstreamBroken
from proxy.wire import json_text, sse

NAME = "workers-ai"

# What the codes mean, in words of `failures`, and the status that goes with them where an error comes under a 200.
_CODES: dict[int, tuple[str, int]] = {
    3003: ("invalid_request_error", 400),
    3006: ("request_too_large", 413),
    3007: ("timeout_error", 408),
    3008: ("timeout_error", 408),
    3023: ("permission_error", 403),
    3036: ("insufficient_quota", 429),  # the account's daily allocation is spent
    3039: ("invalid_request_error", 400),
    3040: ("rate_limit_error", 429),
    3041: ("permission_error", 403),
    3042: ("model_not_found", 404),
    4006: ("insufficient_quota", 429),  # the older code for the same
    5004: ("invalid_request_error", 400),
    5007: ("model_not_found", 400),
    5016: ("permission_error", 403),
    5018: ("permission_error", 403),
    7000: ("model_not_found", 404),  # no route: account or model is not there
    7003: ("model_not_found", 404),
    7009: ("server_error", 503),
    10000: ("authentication_error", 401),
}
_NO_ROUTE = ("7000", "7003")
_INDEX, _CHOICES, _TOOL_CALLS = b'"index"', b'"choices"', b'"tool_calls"'
_NATIVE = (b'"response"', b'"errors"')


def runs_at(base_url: str) -> bool:
    """Whether that is where the native API begins: what follows is the model's name."""
    return base_url.endswith(("/ai/run", "/workers-ai"))


def read_error(parsed: Any) -> Reading:
    """The native shape, which no OpenAI client reads: its words are told in ours. That there is no route names the
    account, which is nobody's business."""
    if failure := native_failure(parsed):
        message = "" if failure.code in _NO_ROUTE else failure.message
        return Reading(False, message, failure.kind, failure.code or "")
    return openai_chat.DIALECT.read_error(parsed)


def native_failure(parsed: Any) -> ir.Failure | None:
    """The first error of the native envelope. An envelope that failed without one is an error too."""
    if not isinstance(parsed, dict) or "choices" in parsed:
        return None
    listed = parsed.get("errors")
    if parsed.get("success") is not False and not (listed and isinstance(listed, list)):
        return None
    first = next((error for error in listed if isinstance(error, dict)), {}) if isinstance(listed, list) else {}
    message, code = first.get("message"), first.get("code")
    code = code if isinstance(code, int) and not isinstance(code, bool) else 0
    kind, status = _CODES.get(code, ("api_error", 500))
    said = message if isinstance(message, str) and message else "Workers AI reported a failure without a message."
    return ir.Failure(kind, said, status, str(code) if code else None)


# -- requests ----------------------------------------------------------------------------------------------------


def mend_request(body: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The body with every `content` that is null or text alone as a string; None when there is nothing to do."""
    messages = body.get("messages")
    if not isinstance(messages, list):
        return None
    mended = [_mend_message(message) for message in messages]
    if all(new is old for new, old in zip(mended, messages, strict=True)):
        return None
    return {**body, "messages": mended}


def _mend_message(message: Any) -> Any:
    if not isinstance(message, dict):
        return message
    content = message.get("content")
    if content is None:
        return {**message, "content": ""}
    if not isinstance(content, list) or not all(_is_text(part) for part in content):
        return message
    return {**message, "content": "\n\n".join(part["text"] for part in content)}


def _is_text(part: Any) -> bool:
    return isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)


# -- streams -----------------------------------------------------------------------------------------------------


def mend_frame(raw: bytes, request_id: str) -> bytes:
    """A frame as an OpenAI client, the tap and the decoder can read it; the very same bytes where nothing is amiss."""
    if _CHOICES in raw:
        if _INDEX in raw and _TOOL_CALLS not in raw:  # calls have an index of their own
            return raw
    elif not any(probe in raw for probe in _NATIVE):
        return raw
    return b"".join(_mend_data(frame, part, request_id) for frame, part in sse.split_frames(raw))


def _mend_data(frame: sse.Frame | None, raw: bytes, request_id: str) -> bytes:
    if frame is None or frame.data.strip() == DONE:
        return raw
    try:
        chunk = json_text.read(frame.data)
    except ValueError:
        return raw  # the tap complains about it
    mended = _mend_chunk(chunk, request_id) if isinstance(chunk, dict) else None
    return raw if mended is None else sse.encode(json_text.write(mended), frame.event)


def _mend_chunk(chunk: dict[str, Any], request_id: str) -> dict[str, Any] | None:
    if failure := native_failure(chunk):
        error = {"message": failure.message, "type": failure.kind, "param": None, "code": failure.code}
        return {"error": {**error, "status_code": failure.status}}
    choices = chunk.get("choices")
    if choices is None:
        return _chunk(chunk, request_id) if "response" in chunk or chunk.get("tool_calls") else None
    if not isinstance(choices, list) or all(not isinstance(choice, dict) or "index" in choice for choice in choices):
        return None
    return {**chunk, "choices": [_numbered(choice, place) for place, choice in enumerate(choices)]}


def _numbered(choice: Any, place: int) -> Any:
    return {"index": place, **choice} if isinstance(choice, dict) else choice


def _failure_in(chunk: Mapping[str, Any], event: bytes) -> ir.Failure | None:
    return native_failure(chunk) or failure_in(chunk, event)


def _chunk(native: Mapping[str, Any], request_id: str) -> dict[str, Any]:
    """A call comes whole, in one chunk."""
    calls = _calls(native.get("tool_calls"), request_id)
    numbered = [{"index": place, **call} for place, call in enumerate(calls)]
    delta: dict[str, Any] = {"content": _said(native), **({"tool_calls": numbered} if calls else {})}
    choice = {"index": 0, "delta": delta, "finish_reason": "tool_calls" if calls else None}
    usage = {"usage": native["usage"]} if isinstance(native.get("usage"), dict) else {}
    return {"id": "", "object": "chat.completion.chunk", "created": 0, "model": "", "choices": [choice], **usage}


# -- whole answers -----------------------------------------------------------------------------------------------


def mend_answer(body: bytes, request_id: str) -> bytes:
    """The native envelope as a chat completion; other bodies as they are."""
    if b'"result"' not in body:
        return body
    try:
        completion = _completion(json_text.read(body), request_id)
    except (ValueError, UpstreamBroken):
        return body  # the check complains about it
    return body if completion is None else json_text.write(completion)


def check_answer(parsed: Any) -> ir.Usage | None:
    if failure := native_failure(parsed):
        raise failures.of_stream(failure)
    return openai_chat.DIALECT.check_answer(_completion(parsed) or parsed)


def decode_answer(parsed: Mapping[str, Any]) -> ir.Answer:
    if failure := native_failure(parsed):
        raise failures.of_stream(failure)
    return CHAT.decode_answer(_completion(parsed) or parsed)


def encode_request(request: ir.Request, target: ir.Target) -> ir.Encoded:
    encoded = CHAT.encode_request(request, target)
    mended = mend_request(encoded.body)
    return encoded if mended is None else evolve(encoded, body=mended)


def _completion(parsed: Any, request_id: str = "") -> dict[str, Any] | None:
    """`{"result": {"response": …, "tool_calls": …, "usage": …}, "success": true}` in OpenAI's words. Some models have a
    whole completion for a result."""
    result = parsed.get("result") if isinstance(parsed, dict) and "choices" not in parsed else None
    if not isinstance(result, dict):
        return None
    if isinstance(result.get("choices"), list):
        return result
    if "response" not in result and not result.get("tool_calls"):
        return None
    calls = _calls(result.get("tool_calls"), request_id)
    message = {"role": "assistant", "content": _said(result), **({"tool_calls": calls} if calls else {})}
    choice = {"index": 0, "message": message, "finish_reason": "tool_calls" if calls else "stop"}
    usage = {"usage": result["usage"]} if isinstance(result.get("usage"), dict) else {}
    return {"id": "", "object": "chat.completion", "created": 0, "model": "", "choices": [choice], **usage}


def _said(native: Mapping[str, Any]) -> str:
    """In JSON mode the response is the object itself; beside calls it may be null."""
    response = native.get("response")
    return response if isinstance(response, str) else "" if response is None else json_text.write(response).decode()


def _calls(native: Any, request_id: str) -> list[dict[str, Any]]:
    """Native calls have a name and an object of arguments, and no id; some models write OpenAI's all the same. Without
    the request's id to make one of, whoever writes the answer gives them theirs."""
    calls = []
    for place, call in enumerate(native if isinstance(native, list) else []):
        called = call.get("function", call) if isinstance(call, dict) else None
        if not isinstance(called, dict) or not isinstance(called.get("name"), str):
            raise UpstreamBroken("Workers AI sent a tool call without a name.")
        words = called.get("arguments")
        arguments = words if isinstance(words, str) else json_text.write(words or {}).decode()
        made_up = f"call_{request_id.removeprefix('req_')}_{place}" if request_id else ""
        function = {"name": called["name"], "arguments": arguments}
        calls.append({"id": call.get("id") or made_up, "type": "function", "function": function})
    return calls


def _checked(operation: Operation) -> Operation:
    """An error in the native envelope may come under a 200 here too."""

    def check(parsed: Any) -> ir.Usage | None:
        if failure := native_failure(parsed):
            raise failures.of_stream(failure)
        return operation.check_answer(parsed)

    return evolve(operation, check_answer=check)


CODEC = evolve(
    CHAT,
    encode_request=encode_request,
    decode_answer=decode_answer,
    stream_decoder=partial(StreamDecoder, failure_in=_failure_in),
)
DIALECT: Dialect = evolve(
    openai_chat.DIALECT,
    name=NAME,
    read_error=read_error,
    codec=lambda: CODEC,
    check_answer=check_answer,
    tap=partial(Tap, failure_in=_failure_in),
    mend_request=mend_request,
    runs_at=runs_at,
    mend_frame=mend_frame,
    mend_answer=mend_answer,
    operations={name: _checked(operation) for name, operation in openai_chat.DIALECT.operations.items()},
)
