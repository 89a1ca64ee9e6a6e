"""Some providers are asked at a path that holds the model's name, with the house's key, and clients may write any name:
`provider/native-id`, or what a pattern takes. None leads anywhere but to a model."""

from __future__ import annotations

from urllib.parse import unquote

import pytest
from faults.responses import SURFACES, asking
from gateway import Start
from playbook import Tongue
from upstream import ScriptedUpstream, plain

EXCHANGES = ("lean", "plain")
LOOPS = ("uvloop",)
PLACES = {  # provider -> dialect, base URL behind the root, what stands before and behind the name
    "g": ("gemini", "", "/v1beta/models/", ":generateContent"),
    "w": ("workers-ai", "/accounts/me/ai/run", "/accounts/me/ai/run/", ""),
}
LEADING_OUT = ("../../../v1/other", "..", ".", "a/../../../b", "a//b", "/etc/passwd", "a\\..\\..\\b", "a/")
ODD = (
    "a?key=1&alt=sse", "a#b", "a b HTTP/1.1", "a\r\nX-Evil: 1\r\n\r\nGET", "a%2f..%2fb", "a;b=c", "é\u202e\U0001f600",
    "a\0",
)  # fmt: skip
each_place = pytest.mark.parametrize("name", PLACES)
each_surface = pytest.mark.parametrize("tongue", SURFACES, ids=[it.surface for it in SURFACES])


def table(upstream: ScriptedUpstream) -> str:
    return "[retry]\ntries = 1\n[health]\nfailures = 1000\n" + "".join(
        f'[providers.{name}]\ndialects = ["{dialect}"]\nbase_url = "{upstream.root}{suffix}"\napi_key = "k"\n'
        f'models = ["{name}-*"]\n'
        for name, (dialect, suffix, *_) in PLACES.items()
    )


@each_place
@each_surface
async def test_a_name_that_leads_out_is_refused_and_nobody_is_asked(
    start: Start, upstream: ScriptedUpstream, tongue: Tongue, name: str
) -> None:
    gw = await start(table(upstream))
    for native in LEADING_OUT:
        for model in (f"{name}/{native}", f"{name}-/{native}"):
            answer = await gw.post(tongue.path, asking(tongue, model, stream=False))
            assert answer.status in (400, 404), (model, answer)
            assert answer.json["error"]["message"]
    assert upstream.seen == []


@each_place
@each_surface
async def test_an_odd_name_stays_one_name(start: Start, upstream: ScriptedUpstream, tongue: Tongue, name: str) -> None:
    gw = await start(table(upstream))
    upstream.plays(plain({"error": {"message": "no such model", "code": 404}}, 404))
    _, _, before, behind = PLACES[name]
    for native in ODD:
        await gw.post(tongue.path, asking(tongue, f"{name}/{native}", stream=False))
        seen = upstream.seen[-1]
        assert unquote(seen.path) == before + native + behind
        assert not {"?", "#", " "} & set(seen.path.removesuffix("?alt=sse"))
        assert "x-evil" not in seen.headers
    assert len(upstream.seen) == len(ODD)
