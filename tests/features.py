"""What every dialect makes of each canonical request: tests/data/features/FEATURE/DIALECT.json.

A feature is a directory with a `request.json`: the surface and the body that a client sends there. Beside it stands one
file per dialect: `{"body": …}`, what a provider of that dialect gets, its own words where it speaks the surface's
dialect; `"dropped"` names, in the client's words, what it cannot be told; `{"refused": …}` names the member for which
it is not asked at all, and says why.

To add a feature, write its `request.json`; to add a dialect, its module and its line of the registry. Then `make
goldens` writes the files, and each change in their diff is a change of what providers get.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from proxy import ir
from proxy.dialects import DIALECTS, UPSTREAMS, Dialect, Upstream
from proxy.errors import Unsupported
from proxy.server.endpoints import BY_NAME
from proxy.wire import splice

FEATURES = Path(__file__).parent / "data" / "features"
WIDTH = 110
# The model that is asked: a recent one of whoever made the format, since what it takes may depend on that.
NATIVE = {
    "anthropic": "claude-opus-4-8",
    "gemini": "gemini-3-pro-preview",
    "ollama": "qwen3:8b",
    "workers-ai": "@cf/openai/gpt-oss-120b",
}
OTHERS = "gpt-5.2"
MAX_OUTPUT = 8192


def target_of(dialect: str) -> ir.Target:
    return ir.Target(NATIVE.get(dialect, OTHERS), dialect, MAX_OUTPUT)


def features() -> dict[str, dict[str, Any]]:
    """The canonical requests by the names of their directories."""
    return {file.parent.name: json.loads(file.read_text()) for file in sorted(FEATURES.glob("*/request.json"))}


def encoding_of(request: dict[str, Any], dialect: Upstream) -> dict[str, Any]:
    """What stands in the dialect's file."""
    spoken = DIALECTS[BY_NAME[request["surface"]].dialect]
    target = target_of(dialect.name)
    if isinstance(dialect, Dialect) and dialect.speaks == spoken.name:
        return {"body": json.loads(passed(request["body"], dialect, target))}
    try:
        asked = spoken.codec().decode_request({"model": target.native, **request["body"]})
        encoded = dialect.codec().encode_request(asked, target)
    except Unsupported as refusal:
        return {"refused": refusal.param, "because": refusal.message}
    written: dict[str, Any] = {"body": json.loads(json.dumps(encoded.body))}
    if encoded.dropped:
        written["dropped"] = sorted(encoded.dropped)
    if encoded.headers:
        written["headers"] = dict(encoded.headers)
    return written


def passed(body: dict[str, Any], dialect: Dialect, target: ir.Target) -> bytes:
    """As the gateway splices it: nothing of it is read into other words."""
    mended = dialect.mend_request(body) if dialect.mend_request is not None else None
    asks = bool(body.get("stream")) and dialect.asks_usage is not None and dialect.asks_usage(target.provider)
    raw = json.dumps({"model": "", **(mended or body)}).encode()
    return splice.rewrite(raw, model=target.native, include_usage=asks)


def files() -> Iterator[tuple[Path, dict[str, Any]]]:
    """Every file that has to be there, and what has to stand in it."""
    for name, request in features().items():
        for dialect in UPSTREAMS.values():
            yield FEATURES / name / f"{dialect.name}.json", encoding_of(request, dialect)


def pretty(value: Any, indent: int = 0, taken: int = 0) -> str:
    """JSON with one line for whatever fits into one: `taken` characters of the first are in use."""
    flat = json.dumps(value, ensure_ascii=False)
    if not value or not isinstance(value, dict | list) or indent + taken + len(flat) <= WIDTH:
        return flat
    pad, end = " " * (indent + 2), " " * indent
    if isinstance(value, list):
        return "[\n" + ",\n".join(pad + pretty(item, indent + 2) for item in value) + f"\n{end}]"
    heads = [(json.dumps(name, ensure_ascii=False) + ": ", item) for name, item in value.items()]
    return "{\n" + ",\n".join(pad + head + pretty(item, indent + 2, len(head)) for head, item in heads) + f"\n{end}}}"


def main() -> None:
    for file, said in files():
        text = pretty(said) + "\n"
        if not file.exists() or file.read_text() != text:
            sys.stdout.write(f"{file.relative_to(FEATURES)}\n")
            file.write_text(text)


if __name__ == "__main__":
    main()
