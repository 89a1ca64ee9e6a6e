"""Pictures by URL: never fetched unless the table says so, and then from where it may be."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from attrs import evolve
from each import each
from gateway import Answer, Running, Start, chain, provider
from playbook import CHAT, MESSAGES, Tongue
from upstream import SILENCE, Script, ScriptedUpstream, head, plain

from proxy.routing.problems import TableRejected
from proxy.server.reload import load_table

LOOPS = ("uvloop",)
OLLAMA = evolve(CHAT, name="ollama", suffix="")
PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256))
OK = {"model": "m", "created_at": "2026-01-01T00:00:00Z", "done": True, "done_reason": "stop"} | {
    "message": {"role": "assistant", "content": "a cat"}
}
ON = '[fetch]\npictures = true\nnetworks = ["127.0.0.0/8"]\nsize = "64KiB"\ntime = "500ms"\nmost = 2\n'
GOOD = plain(PNG, content_type="image/png")


def part(tongue: Tongue, url: str) -> dict[str, Any]:
    if tongue is MESSAGES:
        return {"type": "image", "source": {"type": "url", "url": url}}
    return {"type": "image_url", "image_url": {"url": url}}


async def shown(gw: Running, *urls: str, tongue: Tongue = CHAT, model: str = "first") -> Answer:
    content = [{"type": "text", "text": "What is it?"}, *(part(tongue, url) for url in urls)]
    return await gw.ask(tongue, model, messages=[{"role": "user", "content": content}])


@pytest.mark.parametrize("tongue", [CHAT, MESSAGES], ids=["chat", "messages"])
async def test_by_default_nothing_is_fetched(
    upstream: ScriptedUpstream, second: ScriptedUpstream, start: Start, tongue: Tongue
) -> None:
    gw = await start(provider("first", upstream, OLLAMA))
    answer = await shown(gw, f"{second.root}/cat.png", tongue=tongue)
    assert answer.status == 400
    assert "data:" in answer.json["error"]["message"]
    assert (upstream.opened, second.opened) == (0, 0)


@pytest.mark.parametrize("tongue", [CHAT, MESSAGES], ids=["chat", "messages"])
async def test_where_the_table_says_so_the_bytes_reach_who_needs_them(
    upstream: ScriptedUpstream, second: ScriptedUpstream, start: Start, tongue: Tongue
) -> None:
    gw = await start(ON + provider("first", upstream, OLLAMA))
    upstream.plays(plain(OK))
    second.plays(GOOD)
    url = f"{second.root}/cat.png?size=9"
    assert (await shown(gw, url, url, tongue=tongue)).status == 200
    assert upstream.seen[0].json["messages"][0]["images"] == [base64.b64encode(PNG).decode()] * 2
    (asked,) = second.seen
    assert (asked.method, asked.path) == ("GET", "/cat.png?size=9")
    assert asked.headers.keys() == {"host", "user-agent", "accept", "accept-encoding", "connection"}


async def test_who_takes_urls_gets_the_url(upstream: ScriptedUpstream, second: ScriptedUpstream, start: Start) -> None:
    gw = await start(ON + provider("first", upstream))
    upstream.plays(plain(CHAT.answer("a cat")))
    assert (await shown(gw, f"{second.root}/cat.png")).status == 200
    assert second.opened == 0
    assert b"/cat.png" in upstream.seen[0].body


REFUSED: dict[str, tuple[Script, str]] = {
    "a redirect": ([head(302, "", Location="http://169.254.169.254/", Content_Length=0)], "cannot be had"),
    "not found": (plain(b"", 404), "cannot be had"),
    "a page": (plain(b"<html>", content_type="text/html"), "no picture"),
    "a drawing that is a program": (plain(b"<svg/>", content_type="image/svg+xml"), "no picture"),
    "compressed": (plain(PNG, content_type="image/png", Content_Encoding="gzip"), "no picture"),
    "too much": (plain(bytes(70_000), content_type="image/png"), "more than 65536 bytes"),
    "too much, undeclared": ([head(200, "image/png"), *[bytes(16_384)] * 9], "more than 65536 bytes"),
    "a head that does not come": ([SILENCE], "too long"),
    "a body that does not end": ([head(200, "image/png", Content_Length=99), b"\x89PNG", SILENCE], "too long"),
    "no HTTP": ([b"SSH-2.0-x\r\n"], "cannot be had"),
}


@pytest.mark.parametrize(("script", "reason"), REFUSED.values(), ids=REFUSED)
async def test_what_is_no_picture_is_refused_and_the_model_is_not_asked(
    upstream: ScriptedUpstream, second: ScriptedUpstream, start: Start, script: Script, reason: str
) -> None:
    gw = await start(ON + provider("first", upstream, OLLAMA))
    second.plays(script)
    answer = await shown(gw, f"{second.root}/cat.png")
    assert answer.status == 400
    assert reason in answer.json["error"]["message"]
    assert "169.254" not in answer.json["error"]["message"]
    assert len(second.seen) == 1
    assert upstream.opened == 0


FORBIDDEN = [
    "http://10.0.0.1/a.png", "http://169.254.169.254/latest/meta-data", "http://[::1]/a.png", "http://0.0.0.0/a.png",
    "http://[::ffff:10.0.0.1]/a.png", "http://[64:ff9b::a9fe:a9fe]/", "http://100.64.0.1/", "http://2130706433/",
    "http://0177.0.0.1:{port}/", "https://10.0.0.1/a.png", "http://user:word@127.0.0.1:{port}/a.png",
    "http://127.0.0.1:{port}@10.0.0.1/", "http:///a.png", "http://127.0.0.1:99999/", "http://8.8.8.8/clear-text.png",
    "http://127.0.0.1:{port}/" + "a" * 3_000,
]  # fmt: skip


@pytest.mark.parametrize("url", FORBIDDEN)
async def test_where_it_may_not_be_had_nobody_connects(
    upstream: ScriptedUpstream, second: ScriptedUpstream, start: Start, url: str
) -> None:
    table = ON.replace("127.0.0.0/8", "203.0.113.0/24") if "@" not in url and "aaa" not in url else ON
    gw = await start(table + provider("first", upstream, OLLAMA))
    answer = await shown(gw, url.format(port=second.port))
    assert answer.status == 400
    assert "could not be fetched" in answer.json["error"]["message"]
    assert (upstream.opened, second.opened) == (0, 0)


async def test_a_name_is_judged_by_the_address_that_it_leads_to(
    upstream: ScriptedUpstream, second: ScriptedUpstream, start: Start
) -> None:
    gw = await start(ON.replace("127.0.0.0/8", "203.0.113.0/24") + provider("first", upstream, OLLAMA))
    answer = await shown(gw, f"http://localhost:{second.port}/cat.png")
    assert "cannot be had from there" in answer.json["error"]["message"]
    assert second.opened == 0


HOSTS = {"127.0.0.1": True, "*.0.0.1": True, "img.example.com": False, "*.127.0.0.1": False}


@pytest.mark.parametrize(("host", "fits"), HOSTS.items(), ids=HOSTS)
async def test_hosts_may_be_named(
    upstream: ScriptedUpstream, second: ScriptedUpstream, start: Start, host: str, fits: bool
) -> None:
    gw = await start(ON.replace("[fetch]", f'[fetch]\nhosts = ["{host}"]') + provider("first", upstream, OLLAMA))
    upstream.plays(plain(OK))
    second.plays(GOOD)
    answer = await shown(gw, f"{second.root}/cat.png")
    assert answer.status == (200 if fits else 400)
    assert second.opened == int(fits)


async def test_more_pictures_than_allowed_are_not_begun(
    upstream: ScriptedUpstream, second: ScriptedUpstream, start: Start
) -> None:
    gw = await start(ON + provider("first", upstream, OLLAMA))
    answer = await shown(gw, *(f"{second.root}/{number}.png" for number in range(3)))
    assert (answer.status, second.opened) == (400, 0)
    assert "2 are fetched at most" in answer.json["error"]["message"]


async def test_a_picture_that_cannot_be_had_leaves_the_next_candidate_its_url(
    upstream: ScriptedUpstream, second: ScriptedUpstream, start: Start
) -> None:
    blocks = provider("a", upstream, OLLAMA) + provider("b", upstream, OLLAMA) + provider("c", upstream)
    gw = await start(ON + blocks + chain("a", "b", "c"))
    upstream.plays(plain(CHAT.answer("a cat")))
    second.plays(plain(b"", 404))
    answer = await shown(gw, f"{second.root}/cat.png", model="profile:chain")
    assert (answer.status, answer.headers["X-Nyuro-Model"]) == (200, "c")
    assert len(second.seen) == 1, "tried once, however many candidates would need it"


BAD = {
    "no network": ('networks = ["10.0.0.1/8"]', "fetch.networks"),
    "no host": ('hosts = ["https://a.example"]', "fetch.hosts"),
    "nothing": ('size = "0B"', "fetch.size"),
    "no picture at all": ("most = 0", "fetch.most"),
}


@each(("line", "path"), BAD.values(), ids=BAD)
def test_what_cannot_be_meant_is_refused(line: str, path: str) -> None:
    with pytest.raises(TableRejected, match=path):
        load_table(f"[fetch]\n{line}\n".encode(), {})
