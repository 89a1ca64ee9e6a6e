"""Answers and requests of all kinds, good ones and others, by dice: those that go the short way and those that go the
way of all get the same, and the same is recorded of them."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

import fuzz
import orjson
import pytest
from crowd import crowd
from gateway import RawClient, Running, gateway, provider, sent_behind
from keyed import make
from playbook import CHAT, USAGE, Tongue, chunk
from riding import CALM, DATED, HOPS, KNOWN_BY, OWN, PRICES, answer, nobody_boards, rides, told
from upstream import CUT, LAST, Script, ScriptedUpstream, head, piece, plain

from proxy.server.express import course
from proxy.server.upstream import plain as upstream

LOOPS = ("uvloop",)
KEY = "canary-house-key-0001"
EACH = 60  # requests of a play
QUICK = (("chat", False, 0), ("chat put into messages", True, 0))  # among the fast tests
SOON = (("chat", 0),)

TEXTS = (
    "Hello.",
    " with blanks \n",
    'a "quote" and \\ more',
    "gr\u00f6\u00dfer \U0001f9e8",
    "\x02text\x03",
    " \x02text\x03\n",
    "\x02id\x03",
    "%s %b %% \x02mark 0\x03",
    " \x02mark 0\x03\n",
    "x" * 3_000,
    "x" * 20_000,
    "",
    " ",
    "\u2028\x7f",
    '"model"',
    "data: [DONE]",
    "error",
    '{"error": {"message": "no"}}',
    f"{KEY}",
    "</s>",
    "\\u0041",
    "event: error",
)
HALF = "HALF-A-PAIR"  # stands for one, which no writer here writes


def raw(document: Any) -> bytes:
    return orjson.dumps(document).replace(HALF.encode(), b"\\ud83d")


def text_of(dice: Random) -> str:
    return HALF if dice.random() < 0.04 else dice.choice(TEXTS)


# -- requests ----------------------------------------------------------------------------------------------------


def turns(dice: Random) -> list[dict[str, Any]]:
    roles = ["user", "assistant"] * dice.randrange(3) + ["user"]
    return [{"role": role, "content": text_of(dice) or "?"} for role in roles]


def request(spoken: Tongue, stream: bool, dice: Random) -> bytes:
    """One that mostly is of the kind that is known."""
    asked = spoken.request("chain", stream=stream)
    if dice.random() < 0.5:
        asked["messages"] = turns(dice)
    if dice.random() < 0.15:
        asked |= dice.choice(
            [
                {"temperature": 0.5},
                {"temperature": 1.0},
                {"user": text_of(dice)},
                {"max_tokens": dice.choice([1, 16.0, None, "x"])},
                {"stop": ["model"]},
                {"metadata": {"user_id": "a"}},
                {"stream": dice.choice([None, False, 1])},
                {"x": {"model": "y"}},
                {"n": 1},
                {"top_p": -0.0},
                {"seed": 1e25},
                {"messages": []},
                {"messages": ["a"]},
                {"messages": None},
                {"stream_options": {"include_usage": dice.random() < 0.5}},
                {"models": ["second"]},
                {"system": text_of(dice)},
                {"tools": []},
                {"messages": [{"role": "system", "content": "s"}, *turns(dice)]},
                {"provider": {}},
                {"messages": [{"role": "user", "content": [{"type": "text", "text": text_of(dice)}]}]},
                {"messages": [{"role": "user", "content": "a", "name": "b"}]},
                {"messages": [{"role": "odd", "content": "a"}]},
            ]
        )
    if dice.random() < 0.1:
        asked = dict(dice.sample(list(asked.items()), len(asked)))
    body = raw(asked)
    if dice.random() < 0.1:
        body = dice.choice(REWRITTEN)(body)
    return body


REWRITTEN: Sequence[Callable[[bytes], bytes]] = (
    lambda body: body.replace(b'"model"', b'"\\u006dodel"', 1),
    lambda body: body.replace(b'"model"', b'"model":"second","model"', 1),
    lambda body: body[:-1] + b',"model":"second"}',
    lambda body: body[:-1] + b',"x":1,"x":2}',
    lambda body: body[:-1] + b',"messages":[]}',
    lambda body: body.replace(b'"content":', b'"content":"other","content":', 1),
    lambda body: body.replace(b":", b" :\n ", 3),
    lambda body: b" \n" + body + b"\r\n",
    lambda body: body[:-1],
    lambda body: body + b"x",
    lambda body: body.replace(b"e", b"\xff", 1),
    lambda body: body[:-1] + b',"big":123456789012345678901234567890,"f":1e400}',
    lambda body: body[:-1] + b',"deep":' + b"[" * 300 + b"]" * 300 + b"}",
    lambda body: body.replace(b"Say", b"\\u0053\\u0022", 1),
)


# -- answers -----------------------------------------------------------------------------------------------------


COUNTS: Sequence[Any] = (0, 1, 7, 7.0, 7.5, -1, True, None, "7", 10**13, 1e30, [], {})


def usage(tongue: Tongue, dice: Random) -> Any:
    names = ("prompt_tokens", "completion_tokens") if tongue is CHAT else ("input_tokens", "output_tokens")
    counted = {name: dice.choice((7, 2, 11, *COUNTS)) if dice.random() < 0.3 else 7 for name in names}
    more: list[dict[str, Any]] = [
        {},
        {"total_tokens": 9},
        {"prompt_tokens_details": {"cached_tokens": dice.choice(COUNTS)}},
        {"completion_tokens_details": {"reasoning_tokens": 1, "audio_tokens": dice.choice(COUNTS)}},
        {"cache_read_input_tokens": dice.choice(COUNTS)},
        {"cache_creation_input_tokens": 3},
        {"service_tier": "standard"},
        {"server_tool_use": {"web_search_requests": 1}},
        {"x": 1},
    ]
    return dice.choice([counted | dice.choice(more)] * 12 + [None, {}, [], "x"])


def changed(document: dict[str, Any], dice: Random) -> None:
    """Some member of it, at any depth, is another one."""
    holders = [document]
    for holder in holders:
        values: list[Any] = list(holder.values())
        for value in values:
            inner = value if isinstance(value, list) else [value]
            holders += [it for it in inner if isinstance(it, dict)]
    holder = dice.choice(holders)
    name = dice.choice([*holder, "error", "x", "tool_calls", "refusal", "reasoning", "citations", "annotations"])
    value = dice.choice([None, "", "a", 0, 1.5, -1, True, [], {}, [{}], [None], {"message": "No."}, [CALL], HALF])
    if dice.random() < 0.3:
        holder.pop(name, None)
    else:
        holder[name] = orjson.loads(orjson.dumps(value))


CALL = {"type": "function", "function": {"name": "look", "arguments": "{}"}}


def document(theirs: Tongue, dice: Random) -> bytes:
    said = theirs.answer(text_of(dice))
    said["id"] = dice.choice(["id-1", f"id-{dice.random()}", "\x02id\x03", HALF, ""])
    said["usage"] = usage(theirs, dice) if dice.random() < 0.4 else said["usage"]
    if dice.random() < 0.4:
        said = orjson.loads(orjson.dumps(said))  # what is changed is nobody else's
        for _ in range(dice.randrange(1, 3)):
            changed(said, dice)
    body = raw(said)
    if dice.random() < 0.1:
        body = dice.choice(
            [
                body[:-1],
                body + b"\n",
                b"\n " + body,
                b"\xef\xbb\xbf" + body,
                body + b"x",
                body.replace(b"l", b"\xff", 1),
                b"",
                b"{}",
                b"[]",
                b"null",
                b"<html></html>",
                body[:-1] + b',"id":"twice"}',
                body.replace(b":", b" : "),
                body[:-1] + b',"deep":' + b"[" * 300 + b"]" * 300 + b"}",
                body[:-1] + b',"n":1e400}',
                body[:-1] + b',"n":NaN}',
            ]
        )
    return body


def frames(theirs: Tongue, dice: Random) -> list[bytes]:
    texts = [text_of(dice) for _ in range(dice.choice([1, 2, 5, 30]))]
    good = [it.replace(HALF.encode(), b"\\ud83d") for it in theirs.stream(*texts)]
    if theirs is CHAT and dice.random() < 0.8:
        told = USAGE if dice.random() < 0.7 else usage(theirs, dice)
        good.insert(len(good) - 1, chunk(None, usage=told))
    for _ in range(dice.choice([0, 0, 1, 1, 2])):
        at = dice.randrange(len(good))
        good[at : at + 1] = dice.choice(CHANGES)(theirs, good[at])
    return good


CHANGES: Sequence[Callable[[Tongue, bytes], list[bytes]]] = (
    lambda tongue, it: [],
    lambda tongue, it: [it, it],
    lambda tongue, it: [b": hm\n\n", it],
    lambda tongue, it: [f": {KEY}\n\n".encode(), it],
    lambda tongue, it: [b": hm\n" + it],
    lambda tongue, it: [tongue.keep_alive, it],
    lambda tongue, it: [it, tongue.error_frame("overloaded_error", f"Busy, {KEY}.")],
    lambda tongue, it: [tongue.error_frame("invalid_request_error", "No."), it],
    lambda tongue, it: [it.replace(b"\n", b"\r\n")],
    lambda tongue, it: [it.replace(b"\n", b"\r")],
    lambda tongue, it: [it.replace(b"data: ", b"data:")],
    lambda tongue, it: [b"id: 7\n" + it],
    lambda tongue, it: [b"retry: 7\n\n", it],
    lambda tongue, it: [it[:-9] + b"\n\n"],
    lambda tongue, it: [it[:-2]],
    lambda tongue, it: [it.replace(b"e", b"\xff", 1)],
    lambda tongue, it: [it, b"data: {}\n\n"],
    lambda tongue, it: [it, b"data: [1]\n\n"],
    lambda tongue, it: [it, b"data:\n\n"],
    lambda tongue, it: [it, b'event: odd\ndata: {"type": "odd"}\n\n'],
    lambda tongue, it: [b"\xef\xbb\xbf" + it],
    lambda tongue, it: [it.replace(b"}\n\n", b',"x":1}\n\n')],
    lambda tongue, it: [it.replace(b"null", b'"length"')],
    lambda tongue, it: [it.replace(b'"stop"', b'"tool_calls"'), it],
    lambda tongue, it: [it, *map(tongue.text, ("", "late"))],
    lambda tongue, it: [it.replace(b'"usage"', b'"x"')],
    lambda tongue, it: [it, chunk({}, "stop", usage=USAGE)],
    lambda tongue, it: [it, chunk({"tool_calls": [{"index": 0, "id": "c", **CALL}]})],
    lambda tongue, it: [it, chunk({"reasoning_content": "hm"})],
    lambda tongue, it: [it, tongue.text("x" * 70_000), it],
    lambda tongue, it: [it, *[tongue.keep_alive] * 70],
)


HEADS: Sequence[dict[str, Any]] = (
    {"x_request_id": "up-1"},
    {"x_request_id": KEY},
    {"x_ratelimit_limit_requests": "5", "retry_after": "3"},
    {"Connection": "close"},
    {"Connection": "keep-alive"},
    {"set_cookie": "a=b"},
    {"Content_Encoding": "gzip"},
    {"Content_Encoding": "identity"},
    {"anthropic_ratelimit_tokens_limit": "7"},
    {"x_odd": "\xe4"},
    {"x_request_id": "a" * 300},
    {"location": "http://else.where/"},
)
STATUSES = (201, 204, 206, 302, 400, 401, 404, 413, 429, 500, 503, 529)


BROKEN = b"zz\r\n"
SURPLUS = b"0\r\n\r\nmore"  # comes with the end in one write: later it would meet the next request, or nobody
MOST_BROKEN = 12_000  # bytes that come in one read for sure, of which then nothing is left


def framed(body: bytes, more: dict[str, Any], kind: str, status: int, dice: Random) -> tuple[bytes, bytes, bool]:
    """Head and body of an answer as they may stand on the wire, and whether the connection has to end it."""
    way = dice.choice(
        ["length"] * 6 + ["chunks", "close"] if kind.endswith("json") else ["chunks"] * 9 + ["length", "close"]
    )
    if way == "length":
        return head(status, kind, Content_Length=len(body), **more), body, False
    if way == "close":
        return head(status, kind, **more), body, True
    return head(status, kind, Transfer_Encoding="chunked", **more), b"", False


def script(theirs: Tongue, stream: bool, dice: Random) -> Script:
    """All of it leaves in one write, or in writes that are read one by one; then no two ways see it cut in another
    place."""
    wrong = dice.random() < 0.06
    status = dice.choice(STATUSES) if dice.random() < 0.08 else 200
    more = dice.choice(HEADS) if dice.random() < 0.3 else {}
    kinds = ["text/event-stream"] * 20 + ["text/event-stream; charset=utf-8", "text/plain", "application/json"]
    kind = dice.choice(
        kinds if stream else ["application/json"] * 20 + ["application/json; charset=utf-8", "text/html"]
    )
    if status >= 300:
        stream, kind, body = False, "application/json", raw(theirs.error("server_error", f"No, {KEY}."))
        said = [body]
    else:
        said = frames(theirs, dice) if stream != wrong else [document(theirs, dice)]
    if status == 204:
        said = []
    body = b"".join(said)
    begun, rest, closes = framed(body, more, kind, status, dice)
    if dice.random() < 0.04:
        begun = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + begun
    if b"chunked" in begun:
        pieces = said if dice.random() < 0.7 else [body[at : at + 37] for at in range(0, len(body), 37)][:400]
        rest = b"".join(piece(it) for it in pieces if it)
        end = dice.choice([b"0\r\n\r\n"] * 12 + [b"0\r\nX: y\r\n\r\n", b"", BROKEN, SURPLUS, b"00;a=b\r\n\r\n"])
        if end == BROKEN and len(rest) > MOST_BROKEN:
            end = LAST
        rest, closes = rest + end, end in (b"", BROKEN, SURPLUS)
    whole, cut = begun + rest, not rest.endswith(BROKEN)  # what is broken spoils what comes with it
    if dice.random() < 0.06:
        whole, closes = whole[: dice.randrange(len(whole))], True
    steps: list[Any] = [whole]
    if cut and dice.random() < 0.4:
        latest = whole.rfind(LAST) if rest.endswith(SURPLUS) and LAST in whole else len(whole)
        cuts = sorted(dice.randrange(latest + 1) for _ in range(dice.choice([1, 2, 4])))
        steps = [
            it for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True) if a < b for it in (whole[a:b], 0.004)
        ]
    return [*steps, *([0.004, CUT] if closes else [])]


def slow(theirs: Tongue, stream: bool, dice: Random) -> Script:
    """A stream that comes in many reads, the head with the first frame or alone, the last frames with the end."""
    good = bytes_of(theirs, [dice.choice(SHORT) for _ in range(dice.choice([1, 2, 4]))])
    together = dice.choice([1, 3, 3])
    reads = [*([it] for it in good[:-together]), good[-together:]]
    for _ in range(dice.choice([0, 1, 1])):
        at = dice.randrange(len(reads))
        where = dice.randrange(len(reads[at]))
        reads[at][where : where + 1] = dice.choice(CHANGES[:-2])(theirs, reads[at][where])
    if dice.random() < 0.2:
        at = dice.randrange(len(reads))
        reads[at : at + 2] = [[it for read in reads[at : at + 2] for it in read]]
    written = [b"".join(map(dice.choice(FRAMINGS), filter(None, read))) for read in reads]
    begun = head(200, "text/event-stream", Transfer_Encoding="chunked")
    written = [begun, *written] if dice.random() < 0.2 else [begun + written[0], *written[1:]]
    written[-1] += (end := dice.choice([LAST] * 9 + [b"0\r\nX: y\r\n\r\n", b"", BROKEN]))
    if dice.random() < 0.1:
        at = dice.randrange(len(written))
        cut = dice.randrange(len(written[at]) + 1)
        written[at : at + 1] = [written[at][:cut], written[at][cut:]]
    steps = [it for read in written if read for it in (read, 0.003)]
    return [*steps, CUT] if end in (b"", BROKEN) else steps


SHORT = ("a", "bc", " d\n", 'e "f"', "g\u00f6", "\\", "h" * 100, "")
FRAMINGS: Sequence[Callable[[bytes], bytes]] = (
    *[piece] * 12,
    lambda frame: piece(frame[:9]) + piece(frame[9:]) if len(frame) > 9 else piece(frame),
    lambda frame: b"%x;a=b\r\n%b\r\n" % (len(frame), frame),
    lambda frame: b"%06X\r\n%b\r\n" % (len(frame), frame),
)


def bytes_of(tongue: Tongue, texts: list[str]) -> list[bytes]:
    said = tongue.stream(*texts)
    return [*said[:-1], chunk(None, usage=USAGE), said[-1]] if tongue is CHAT else said


# -- both ways ---------------------------------------------------------------------------------------------------

TIMED = re.compile("_bucket|_sum|seconds|build|memory|config|process|open_|connections|start|log_|ledger")


def good(tongue: Tongue, stream: bool) -> Script:
    if not stream:
        return plain(tongue.answer("Hello."))
    begun = head(200, "text/event-stream", Transfer_Encoding="chunked")
    return [b"".join([begun, *map(piece, bytes_of(tongue, ["Hello", " there."])), LAST])]


async def played(
    home: Path, spoken: Tongue, theirs: Tongue, stream: bool, seed: int,
    script: Callable[[Tongue, bool, Random], Script] = script,
) -> list[Any]:  # fmt: skip
    """Of each request what was asked, what came, what is recorded and what is held; and what is counted in the end."""
    home.mkdir()
    async with ScriptedUpstream() as first, ScriptedUpstream() as second:
        houses = {"first": first, "second": second}
        blocks = [provider(name, it, theirs, models={name: PRICES[name]}) for name, it in houses.items()]
        table = f'{CALM.format(parallel=5)}{"".join(blocks)}[aliases]\nchain = ["first", "second"]\n'
        async with gateway(table, home) as gw:
            second.plays(good(theirs, stream))
            dice, bearer = Random(seed), f"Authorization: {(await make(gw, project='team')).bearer['Authorization']}"
            client, seen = await gw.connect(), list[Any]()
            for number in range(KNOWN_BY + EACH):
                is_first, before = number < KNOWN_BY, len(first.seen)
                known = is_first or script is slow or dice.random() < 0.3
                body = raw(spoken.request("chain", stream=stream)) if known else request(spoken, stream, dice)
                first.plays(good(theirs, stream) if is_first else script(theirs, stream, dice))
                cuts = (dice.randrange(len(body)),) if not is_first and dice.random() < 0.3 else ()
                status, headers, said = await asked(gw, client, spoken, body, bearer, *cuts)
                await gw.quiet()
                if client.reader.at_eof() or headers.get("connection") == "close" or said.endswith(b"(cut)"):
                    client.leave()
                    client = await gw.connect()
                asks = [
                    (it.path, it.headers | {"x-pointsman-hops": "", "host": ""}, it.body) for it in first.seen[before:]
                ]
                kept = {name: value for name, value in headers.items() if name not in DATED and "reset" not in name}
                row = recorded((await gw.rows())[0]) if "x-nyuro-model" in headers else None
                seen.append((body[:3_000], asks, status, kept, OWN.sub(b"", said), row, held(gw)))
                rested(gw)
            assert gw.app is not None
            counted = gw.app.metrics.render().decode().splitlines()
            series = [line for line in counted if line.startswith("pointsman_") and not TIMED.search(line)]
            return [*seen, *sorted(series)]  # series stand in the order in which they were first counted


async def asked(
    gw: Running, client: RawClient, spoken: Tongue, body: bytes, bearer: str, *cuts: int
) -> tuple[Any, dict[str, str], bytes]:
    if cuts:
        await sent_behind(gw, client, spoken, body, *cuts, headers=(bearer,))
    else:
        await client.request(spoken, body, bearer)
    try:
        return await answer(client)
    except EOFError:
        return b"", {}, b"(cut)"


def recorded(row: dict[str, Any]) -> dict[str, Any]:
    kept = told(row) | {"key_id": None}
    if kept["facts"]:
        kept["facts"].pop("conversation", None)  # it goes by the key
    return kept


def held(gw: Running) -> Any:
    """Nothing of a request that has ended, but what it cost."""
    assert gw.app is not None
    gateway, books = gw.app.gateway, gw.app.gateway.current.gate.books
    account, meter = books.accounts["project:team"], books.meters["project:team"]
    house: Any = gateway.current.upstreams["first"]
    assert (gateway.turnstile.inside, gateway.turnstile.held, gateway.current.users) == (0, 0, 0)
    assert (meter.running, meter.reserved, account.reserved) == (0, 0, 0)
    assert not any(gateway.relay.agenda._pages.values())
    return account.spent, house._slots._free


def rested(gw: Running) -> None:
    """Nobody has to rest for what went wrong, so that the next one may ride."""
    assert gw.app is not None
    health = gw.app.gateway.current.world.health
    health._states.clear()
    health._latest = 0.0


KNOWN_STEPS = ("_opens", "_says", "_ends", "_ends_as_usual")  # an end is known by its frames, or as one that others had


def known_steps(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, bool]]:
    """Of streams that are known by their bytes: what was asked of a read, and whether it was so."""
    seen: list[tuple[str, bool]] = []

    def watch(name: str) -> None:
        step = getattr(course.Course, name)

        def noted(self: course.Course, *args: Any) -> bool:
            known: bool = step(self, *args)
            seen.append((name, known))
            return known

        monkeypatch.setattr(course.Course, name, noted)

    for name in KNOWN_STEPS:
        watch(name)
    return seen


PLAYS = [
    pytest.param(hop, stream, fuzz.SEED + number, marks=() if (name, stream, number) in QUICK else pytest.mark.slow,
                 id=f"{name}, {'streamed' if stream else 'plain'}, {number}")
    for name, hop in HOPS.items() for stream in (False, True) for number in range(2)
]  # fmt: skip


@pytest.mark.parametrize(("hop", "stream", "seed"), PLAYS)
async def test_whatever_comes_is_the_same_either_way(
    hop: tuple[Tongue, Tongue], stream: bool, seed: int, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if seed % 2:
        crowd(monkeypatch)
    monkeypatch.setattr(upstream, "LINGER", 0.2)
    boarded, joined = rides(monkeypatch), rides(monkeypatch, "join")
    short = await played(home / "short", *hop, stream, seed)
    assert sum(ride is not None for ride in (*boarded, *joined)) > EACH // 5
    nobody_boards(monkeypatch)
    of_all = await played(home / "of-all", *hop, stream, seed)
    for one, other in zip(short, of_all, strict=True):
        assert one == other


SLOW = [
    pytest.param(hop, fuzz.SEED + number, marks=() if (name, number) in SOON else pytest.mark.slow,
                 id=f"{name}, {number}")
    for name, hop in HOPS.items() for number in range(3)
]  # fmt: skip


@pytest.mark.parametrize(("hop", "seed"), SLOW)
async def test_slow_streams_are_the_same_either_way(
    hop: tuple[Tongue, Tongue], seed: int, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if seed % 2:
        crowd(monkeypatch)
    monkeypatch.setattr(upstream, "LINGER", 0.2)
    steps = known_steps(monkeypatch)
    short = await played(home / "short", *hop, True, seed, slow)
    if hop == (CHAT, CHAT):
        known = {name for name, known in steps if known}
        assert known >= {"_opens", "_says"}
        assert known & {"_ends", "_ends_as_usual"}
        assert not all(known for _, known in steps)
    nobody_boards(monkeypatch)
    of_all = await played(home / "of-all", *hop, True, seed, slow)
    for one, other in zip(short, of_all, strict=True):
        assert one == other
