"""One translation in a process of its own: 50 MB of a stream go through, and what the process grew by comes out.

    python tests/translating.py openai-chat anthropic 50000000

Prints the growth of the process in bytes, at its highest, since just after the first megabyte.
"""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from proxy.dialects import DIALECTS, UPSTREAMS
from proxy.dialects.dialect import Voice
from proxy.streams import Translation

PAGE = 4096
READ = 65_536  # bytes of a read
WARM = 2_000_000  # bytes until interpreter and allocator are at their size


def _data(**members: object) -> bytes:
    return b"data: " + json.dumps(members).encode() + b"\n\n"


def _event(**members: object) -> bytes:
    return b"event: " + str(members["type"]).encode() + b"\n" + _data(**members)


def _chunk(number: int, **members: object) -> bytes:
    head = {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 7,
        "model": "m",
        "service_tier": "default",
    }
    return _data(**head, system_fingerprint="fp_0123456789", **members)


def _chat(text: str) -> bytes:
    return _chunk(0, choices=[{"index": 0, "delta": {"content": text}, "logprobs": None, "finish_reason": None}])


def _responses(text: str, number: int = 0) -> bytes:
    return _event(
        type="response.output_text.delta", sequence_number=number, item_id="msg_1", output_index=0, content_index=0,
        delta=text, logprobs=[], obfuscation="0123456789abcdef",
    )  # fmt: skip


# Each dialect's opening, and a piece of it as long as a provider's are: a few letters in their wrapping.
OPENINGS = {
    "openai-chat": _chunk(0, choices=[{"index": 0, "delta": {"role": "assistant", "content": ""}}]),
    "workers-ai": b"",
    "anthropic": _event(
        type="message_start",
        message={"id": "msg_1", "model": "m", "content": [], "usage": {"input_tokens": 3, "output_tokens": 1}},
    )
    + _event(type="content_block_start", index=0, content_block={"type": "text", "text": ""}),
    "openai-responses": _event(
        type="response.created", sequence_number=0, response={"id": "resp_1", "object": "response", "output": []}
    )
    + _event(
        type="response.output_item.added", sequence_number=1, output_index=0,
        item={"id": "msg_1", "type": "message", "role": "assistant", "content": []},
    )
    + _event(
        type="response.content_part.added", sequence_number=2, item_id="msg_1", output_index=0, content_index=0,
        part={"type": "output_text", "text": ""},
    ),
    "gemini": b"",
    "ollama": b"",
}  # fmt: skip
PIECES: dict[str, Callable[[str], bytes]] = {
    "openai-chat": _chat,
    "workers-ai": _chat,
    "anthropic": lambda text: _event(
        type="content_block_delta", index=0, delta={"type": "text_delta", "text": text}
    ),
    "openai-responses": _responses,
    "gemini": lambda text: _data(
        candidates=[{"content": {"parts": [{"text": text}], "role": "model"}, "index": 0}],
        usageMetadata={"promptTokenCount": 3, "candidatesTokenCount": 5, "totalTokenCount": 8},
        modelVersion="m", responseId="r",
    ),
    "ollama": lambda text: json.dumps(
        {"model": "m", "created_at": "2026-01-01T00:00:00.000000Z", "message": {"role": "assistant", "content": text},
         "done": False}
    ).encode() + b"\n",
}  # fmt: skip


def reads(upstream: str, size: int) -> Iterator[bytes]:
    piece = PIECES[upstream]("word")
    block = piece * (READ // len(piece))
    yield OPENINGS[upstream] + block
    for _ in range(size // len(block)):
        yield block


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


def main() -> None:
    upstream, client, size = sys.argv[1], sys.argv[2], int(sys.argv[3])
    stream = Translation(UPSTREAMS[upstream], DIALECTS[client], Voice("req_1", "m", 7))
    seen, base, most, out = 0, 0, 0, 0
    for block in reads(upstream, size):
        out += len(stream.feed(block))
        seen += len(block)
        if seen < WARM:
            gc.collect()
            base = resident()
        most = max(most, resident() - base)
    assert out > size / 20, "it was translated, not swallowed"
    sys.stdout.write(f"{most}\n")


if __name__ == "__main__":
    main()
