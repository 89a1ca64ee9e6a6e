"""What every dialect owes that providers speak, whether or not clients do."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from each import each

from proxy import ir
from proxy.dialects import DIALECTS, UPSTREAMS, Dialect
from proxy.errors import Unsupported, UpstreamError

KEY = "canary-0123456789"
each_upstream = each("name", UPSTREAMS)


@each_upstream
def test_an_upstream_is_named_as_it_names_itself(name: str) -> None:
    upstream = UPSTREAMS[name]
    assert upstream.name == name
    assert upstream.speaks in UPSTREAMS
    assert (name in DIALECTS) == isinstance(upstream, Dialect), "who can be read can be a surface's"


@each_upstream
def test_the_key_stands_once_in_the_credential_and_nowhere_else(name: str) -> None:
    upstream = UPSTREAMS[name]
    ((header, value),) = upstream.credential(KEY)
    assert value in (KEY, f"Bearer {KEY}")
    assert KEY not in header
    assert header.lower() not in {fixed.lower() for fixed, _ in upstream.fixed_headers}


@each_upstream
@each("nonsense", [None, 1, "x", [], [1], {}, {"error": None}, {"error": 3}])
def test_nobodys_json_is_neither_an_error_nor_an_answer(name: str, nonsense: Any) -> None:
    assert not UPSTREAMS[name].read_error(nonsense).own
    with pytest.raises(UpstreamError):
        UPSTREAMS[name].check_answer(nonsense)


@each_upstream
def test_who_speaks_of_conversations_alone_says_so(name: str) -> None:
    assert UPSTREAMS[name].path("chat", "some-model", False).startswith("/")
    if name not in DIALECTS:
        with pytest.raises(Unsupported, match="embeddings"):
            UPSTREAMS[name].path("embeddings", "some-model", False)


# -- what clients really sent ------------------------------------------------------------------------------------

WIRE = Path(__file__).parents[2].parent / "shared" / "wire"
FOLDERS = {"openai-chat*": "openai-chat", "anthropic-messages": "anthropic", "openai-responses*": "openai-responses"}
SENT = {
    case["name"]: (dialect, case["request"]["body"])
    for folder, dialect in FOLDERS.items()
    for file in sorted(WIRE.glob(f"{folder}/**/*.json"))
    if isinstance(((case := json.loads(file.read_text()))["request"] or {}).get("body"), dict)
    and {"messages", "input"} & case["request"]["body"].keys()
}


@pytest.mark.skipif(not SENT, reason="the recordings are not on this machine")
@each("name", sorted(UPSTREAMS.keys() - DIALECTS.keys()))
@each(("dialect", "body"), SENT.values(), ids=SENT)
def test_a_recorded_request_is_written_or_refused_with_its_place(name: str, dialect: str, body: dict[str, Any]) -> None:
    refusal = None
    try:
        request = DIALECTS[dialect].codec().decode_request(body)
        written = UPSTREAMS[name].codec().encode_request(request, ir.Target("gemini-3-flash-preview"))
    except Unsupported as exc:
        refusal = exc
    if refusal is not None:
        assert refusal.param
        assert refusal.message
        return
    said = json.dumps(dict(written.body), ensure_ascii=False)
    for part in (part for message in request.messages for part in message.parts):
        if isinstance(part, ir.Text):
            assert json.dumps(part.text, ensure_ascii=False)[1:-1] in said
        if isinstance(part, ir.ToolCall):
            assert said.count(json.dumps(part.id)) >= 1, "calls and their results are told by id"
    assert len(set(written.dropped)) == len(written.dropped)


def test_a_format_of_providers_alone_is_read_when_a_table_has_it() -> None:
    table = '[providers.p]\ndialect = "gemini"\nbase_url = "http://p.test"\napi_key = "none"\n'
    program = f"""
import sys, proxy.app
from proxy.dialects import OF_PROVIDERS
from proxy.server.reload import load_table, read_dialects
read = lambda: [name for name in OF_PROVIDERS if "proxy.dialects." + name in sys.modules]
print(read(), end=" ")
read_dialects(load_table({table!r}.encode(), {{}}))
print(read())
"""
    assert subprocess.check_output([sys.executable, "-c", program], text=True) == "[] ['gemini']\n"
