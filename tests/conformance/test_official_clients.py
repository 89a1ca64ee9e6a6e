"""What the gateway sends to Gemini and Ollama is what their vendors' own clients send: each feature's request
(tests/data/features) is put to the official client, which checks it by its own types, and its bytes are compared.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import Any

import pytest
from features import FEATURES, NATIVE, features

KEY = "key-of-nobody"
Body = dict[str, Any]


class Upstream(HTTPServer):
    """Notes what a client sends, and answers so that it is content."""

    def __init__(self, answer: Body) -> None:
        self.answer = json.dumps(answer).encode()
        self.seen: list[tuple[str, Mapping[str, str], Body]] = []
        super().__init__(("127.0.0.1", 0), Noting)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Noting(BaseHTTPRequestHandler):
    server: Upstream

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.seen.append((self.path, dict(self.headers), json.loads(body)))
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(self.server.answer)

    def log_message(self, *_: Any) -> None:
        """Nothing on the terminal."""


@contextmanager
def upstream(answer: Body) -> Iterator[Upstream]:
    with Upstream(answer) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def bodies(dialect: str) -> dict[str, Body]:
    """What stands in the golden files, by feature."""
    found = {name: json.loads((FEATURES / name / f"{dialect}.json").read_text()) for name in features()}
    return {name: said["body"] for name, said in found.items() if "body" in said}


# -- Gemini ------------------------------------------------------------------------------------------------------

GEMINI = bodies("gemini")
ANSWER = {"candidates": [{"content": {"role": "model", "parts": [{"text": "Hi"}]}, "finishReason": "STOP", "index": 0}]}


def configured(body: Body) -> Any:
    """As a program writes it: the client's own types refuse what they do not know."""
    types = pytest.importorskip("google.genai.types")
    given = dict(body.get("generationConfig", {}))
    for name in ("systemInstruction", "tools", "toolConfig", "safetySettings", "serviceTier"):
        if name in body:
            given[name] = body[name]
    return types.GenerateContentConfig.model_validate(given, by_alias=True)


def sent_by_google(body: Body, model: str) -> Body:
    genai, types = pytest.importorskip("google.genai"), pytest.importorskip("google.genai.types")
    with upstream(ANSWER) as server:
        client = genai.Client(api_key=KEY, http_options=types.HttpOptions(base_url=server.url, api_version="v1beta"))
        contents: Any = [types.Content.model_validate(turn) for turn in body["contents"]]
        client.models.generate_content(model=model, contents=contents, config=configured(body))
        ((path, headers, seen),) = server.seen
    assert path == f"/v1beta/models/{model}:generateContent"
    assert headers["x-goog-api-key"] == KEY
    return seen


def plain(value: Any) -> Any:
    """What is alike to Google: names of members in either spelling, enumerations in capitals or not, base64 for the web
    or not, an empty object and none."""
    match value:
        case dict():
            members = ((name.replace("_", "").lower(), plain(inner)) for name, inner in value.items())
            return {name: inner for name, inner in members if (name, inner) != ("generationconfig", {})}
        case list():
            return [plain(inner) for inner in value]
        case str():
            return value.replace("-", "+").replace("_", "/").rstrip("=").lower()
        case _:
            return value


@pytest.mark.slow
@pytest.mark.parametrize("feature", GEMINI)
def test_gemini_is_sent_what_googles_own_client_sends(feature: str) -> None:
    body = GEMINI[feature]
    assert plain(sent_by_google(body, NATIVE["gemini"])) == plain(body)


# -- Ollama ------------------------------------------------------------------------------------------------------

OLLAMA = bodies("ollama")
SAID = {
    "model": "m", "created_at": "2026-01-01T00:00:00Z", "message": {"role": "assistant", "content": "Hi"}, "done": True
}  # fmt: skip
# What Ollama's API has and its client has no place for, or has not in a tool's schema:
# https://docs.ollama.com/api/chat
BESIDE = ("truncate", "id", "tool_call_id", "additionalProperties")


def sent_by_ollama(body: Body) -> Body:
    ollama = pytest.importorskip("ollama")
    given = {name: value for name, value in body.items() if name not in BESIDE}
    with upstream(SAID) as server:
        answer: Any = ollama.Client(host=server.url).chat(**given)
        if body["stream"]:
            assert [line.done for line in answer] == [True]
        ((path, _, seen),) = server.seen
    assert path == "/api/chat"
    return seen


def known(value: Any) -> Any:
    """Less what only the API knows, and what is empty, which the client leaves out."""
    match value:
        case dict():
            told = {name: known(inner) for name, inner in value.items() if name not in BESIDE}
            return {name: inner for name, inner in told.items() if inner not in (None, [], "")}
        case list():
            return [known(inner) for inner in value]
        case _:
            return value


@pytest.mark.slow
@pytest.mark.parametrize("feature", OLLAMA)
def test_ollama_is_sent_what_its_own_client_sends(feature: str) -> None:
    assert known(sent_by_ollama(OLLAMA[feature])) == known(OLLAMA[feature])
