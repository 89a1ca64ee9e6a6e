"""The table of failures, row by row, on both surfaces, plain and streamed: who is asked, what the client sees, what the
record says."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import orjson
import pytest
from attrs import frozen
from gateway import Answer, Running, Start, chain, provider, refused_port
from playbook import CHAT, MESSAGES, TONGUES, Tongue
from shares import product_of
from upstream import CUT, RESET, SILENCE, Script, ScriptedUpstream, head, plain, streamed

EXCHANGES = ("lean", "plain")
LOOPS = ("uvloop",)
HOUSE_KEY = "canary-house-key-0001"
both_surfaces = pytest.mark.parametrize("tongue", TONGUES.values(), ids=TONGUES)
both_ways = pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])


def good(tongue: Tongue, text: str, *, stream: bool) -> Script:
    return streamed(tongue.stream(text)) if stream else plain(tongue.answer(text))


def said(tongue: Tongue, answer: Answer, *, stream: bool) -> str:
    assert answer.status == 200, answer
    return tongue.read_stream(answer.body) if stream else tongue.read_text(answer.json)


def failed(status: int, kind: str = "some_error", message: str = "No.", **headers: Any) -> Callable[..., Script]:
    """A provider's error in its own dialect."""
    return lambda tongue, stream: plain(tongue.error(kind, message), status=status, **headers)


def page(status: int) -> Callable[..., Script]:
    return lambda tongue, stream: plain(b"<html>secret-host.internal</html>", status, "text/html")


def body(plain_body: bytes, stream_body: bytes | None = None) -> Callable[..., Script]:
    """A 200 with this in it."""

    def script(tongue: Tongue, stream: bool) -> Script:
        if stream:
            return streamed([plain_body if stream_body is None else stream_body])
        return plain(plain_body)

    return script


def empty(tongue: Tongue, stream: bool) -> Script:
    """No output and no reason."""
    if stream:
        return streamed([tongue.start, tongue.end])
    document = tongue.answer("")
    if tongue is CHAT:
        document["choices"][0]["finish_reason"] = None
    else:
        document |= {"content": [], "stop_reason": None}
    return plain(document)


def error_under_200(tongue: Tongue, stream: bool) -> Script:
    if stream:
        return streamed([tongue.start, tongue.keep_alive, tongue.error_frame("server_error", "No.")])
    return plain(tongue.error("server_error", "No."))


@frozen
class Row:
    """What a candidate does, and what follows. `statuses`: the client's if it was the last, on chat and on messages."""

    does: Callable[[Tongue, bool], Script]
    outcome: str
    statuses: tuple[int, int]
    asked: int = 1  # times, where nothing else is left
    foreign: bool = False  # the provider's own words reach the client where its status does
    goes_on: bool = True

    @property
    def status_sent(self) -> int:
        return int(_first(self.does(CHAT, False)).split()[1])


def _first(script: Script) -> bytes:
    return next(step for step in script if isinstance(step, bytes))


TRANSIENT = {
    f"{status}": Row(failed(status), "upstream_failed", (status, status), asked=2, foreign=True)
    for status in (500, 503)
}
ROWS: dict[str, Row] = TRANSIENT | {
    "closed without an answer": Row(lambda *_: [CUT], "bad_upstream_response", (502, 502)),
    "reset without an answer": Row(lambda *_: [RESET], "bad_upstream_response", (502, 502)),
    "not HTTP": Row(lambda *_: [b"220 smtp ready\r\n\r\n", SILENCE], "bad_upstream_response", (502, 502)),
    "529": Row(failed(529), "upstream_overloaded", (503, 529), foreign=True),
    "an overloaded_error of another status": Row(
        failed(500, "overloaded_error"), "upstream_overloaded", (500, 500), foreign=True
    ),
    "a 500 without a word": Row(lambda *_: plain(b"", 500), "upstream_failed", (500, 500), asked=2),
    "a page under 503": Row(page(503), "upstream_failed", (503, 503), asked=2),
    "402": Row(failed(402, "billing_error"), "upstream_credentials", (502, 502)),
    "our quota spent": Row(failed(429, "insufficient_quota"), "upstream_credentials", (502, 502)),
    "401 of our key": Row(failed(401, "authentication_error"), "upstream_credentials", (502, 502)),
    "403 of our key": Row(failed(403, "permission_error"), "upstream_credentials", (502, 502)),
    "400": Row(failed(400), "upstream_rejected", (400, 400), foreign=True, goes_on=False),
    "413": Row(failed(413), "upstream_rejected", (413, 413), foreign=True, goes_on=False),
    "422": Row(failed(422), "upstream_rejected", (422, 422), foreign=True, goes_on=False),
    "418": Row(failed(418), "upstream_rejected", (418, 418), foreign=True, goes_on=False),
    "a page under 400": Row(page(400), "upstream_rejected", (400, 400), goes_on=False),
    "an unknown model": Row(failed(404, "not_found_error"), "upstream_model_not_found", (404, 404), foreign=True),
    "a page under 404": Row(page(404), "upstream_model_not_found", (404, 404)),
    "content policy": Row(
        failed(400, "invalid_request_error", "Flagged by the content policy."),
        "content_policy", (400, 400), foreign=True, goes_on=False,
    ),
    "content policy as 403": Row(
        failed(403, "permission_error", "Flagged by the content policy."),
        "content_policy", (403, 403), foreign=True, goes_on=False,
    ),
    "no output and no reason": Row(empty, "bad_upstream_response", (502, 502)),
    "a page under 200": Row(body(b"<html>Log in</html>"), "bad_upstream_response", (502, 502)),
    "broken JSON under 200": Row(body(b'{"id": ', b'data: {"id": \n\n'), "bad_upstream_response", (502, 502)),
    "JSON of another shape": Row(body(b"{}", b"{}"), "bad_upstream_response", (502, 502)),
    "null": Row(body(b"null", b"data: null\n\n"), "bad_upstream_response", (502, 502)),
    "nothing under 200": Row(body(b""), "bad_upstream_response", (502, 502)),
    "an error under 200": Row(error_under_200, "upstream_failed", (500, 500), asked=2),
    "204": Row(lambda *_: [head(204, "")], "bad_upstream_response", (502, 502)),
    "a redirect": Row(
        lambda *_: [head(307, "", Location="http://127.0.0.1:1/", Content_Length=0)],
        "bad_upstream_response", (502, 502),
    ),
    "compressed": Row(
        lambda *_: [head(200, Content_Encoding="gzip", Content_Length=9), SILENCE],
        "bad_upstream_response", (502, 502),
    ),
    "cut short": Row(lambda *_: [head(200, Content_Length=99) + b'{"id"', CUT], "bad_upstream_response", (502, 502)),
    "a stream cut before content": Row(
        lambda tongue, _: [*streamed([tongue.start], last=False), CUT], "bad_upstream_response", (502, 502)
    ),
    "an error whose body is cut": Row(
        lambda *_: [head(503, Content_Length=99) + b'{"error"', CUT], "upstream_failed", (503, 503), asked=2
    ),
}  # fmt: skip


def told_error(tongue: Tongue, answer: Answer) -> dict[str, Any]:
    """The error of an answer in the surface's own shape."""
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.headers["X-Request-Id"].startswith("req_")
    if tongue is MESSAGES:
        assert answer.headers["request-id"] == answer.request_id
        assert answer.json["type"] == "error"
    error = answer.json["error"]
    assert isinstance(error["message"], str)
    assert isinstance(error["type"], str)
    return dict(error)


def code_of(tongue: Tongue, error: dict[str, Any]) -> Any:
    return error["code"] if tongue is CHAT else error["details"]["error_code"]


@pytest.mark.parametrize(
    ("row", "stream", "tongue"), product_of(ROWS, {"plain": False, "stream": True}, TONGUES, fast=1, of=3)
)
async def test_a_failure_goes_its_rows_way(
    upstream: ScriptedUpstream, second: ScriptedUpstream, start: Start, tongue: Tongue, stream: bool, row: Row
) -> None:
    table = (
        provider("first", upstream, tongue) + provider("alone", upstream, tongue) + provider("second", second, tongue)
    )
    gw = await start(table + chain("first", "second"))
    upstream.plays(row.does(tongue, stream))
    second.plays(good(tongue, "from the second", stream=stream))

    answer = await gw.ask(tongue, "profile:chain", stream=stream)
    record = await gw.row(answer.request_id)
    outcomes = [attempt["outcome"] for attempt in record["attempts"]]
    if row.goes_on:
        assert said(tongue, answer, stream=stream) == "from the second"
        assert outcomes == [row.outcome] * row.asked + ["ok"]
        assert answer.headers["X-Nyuro-Fallback-Used"] == "true"
        assert answer.headers["X-Nyuro-Model"] == "second"
        assert answer.headers["X-Nyuro-Attempts"] == str(row.asked + 1)
        assert (record["outcome"], record["status"], record["provider"]) == ("ok", 200, "second")
    else:
        assert second.seen == []
        assert outcomes == [row.outcome]
        assert record["outcome"] == row.outcome

    before = len(upstream.seen)
    answer = await gw.ask(tongue, "alone", stream=stream)
    assert answer.status == row.statuses[tongue is MESSAGES]
    assert len(upstream.seen) - before == row.asked
    error = told_error(tongue, answer)
    if row.foreign and answer.status == row.status_sent:
        assert (
            answer.body
            == b"".join(s for s in row.does(tongue, stream) if isinstance(s, bytes)).partition(b"\r\n\r\n")[2]
        )
    else:
        assert code_of(tongue, error) == row.outcome
    assert answer.headers["x-should-retry"] == "false"
    assert answer.headers["X-Nyuro-Model"] == answer.headers["X-Nyuro-Provider"] == "none"
    assert b"secret-host" not in answer.body
    assert str(upstream.port).encode() not in answer.body
    record = await gw.row(answer.request_id)
    assert (record["status"], record["outcome"]) == (answer.status, row.outcome)
    assert [attempt["outcome"] for attempt in record["attempts"]] == [row.outcome] * row.asked
    assert record["model"] is None


@pytest.mark.parametrize("status", [408, 409, 425, 502, 504, 520, 524, 599])
async def test_every_status_of_trouble_is_tried_again_then_passed_on(
    upstream: ScriptedUpstream, second: ScriptedUpstream, start: Start, status: int
) -> None:
    gw = await start(provider("first", upstream) + provider("second", second) + chain("first", "second"))
    upstream.plays(failed(status)(CHAT, False))
    second.plays(plain(CHAT.answer("ok")))
    assert said(CHAT, await gw.ask(CHAT, "profile:chain"), stream=False) == "ok"
    assert len(upstream.seen) == 2
    assert (await gw.ask(CHAT, "first")).status == status


# -- before there is an answer at all ----------------------------------------------------------------------------


@both_surfaces
async def test_a_provider_that_refuses_connections_is_tried_once_more_then_the_next(
    second: ScriptedUpstream, start: Start, tongue: Tongue
) -> None:
    dead = f"http://127.0.0.1:{refused_port()}"
    table = provider("first", dead, tongue) + provider("second", second, tongue) + chain("first", "second")
    gw = await start(table)
    second.plays(plain(tongue.answer("here")))
    answer = await gw.ask(tongue, "profile:chain")
    assert said(tongue, answer, stream=False) == "here"
    outcomes = [attempt["outcome"] for attempt in (await gw.row(answer.request_id))["attempts"]]
    assert outcomes == ["upstream_unreachable", "upstream_unreachable", "ok"]
    answer = await gw.ask(tongue, "first")
    assert answer.status == 502
    assert code_of(tongue, told_error(tongue, answer)) == "upstream_unreachable"


async def test_a_providers_full_pool_does_not_stop_the_chain(
    upstream: ScriptedUpstream, second: ScriptedUpstream, start: Start
) -> None:
    limits = 'connections = 1\ntimeouts = { queue = "10ms" }'
    table = provider("first", upstream, more=limits) + provider("second", second)
    gw = await start(table + chain("first", "second"))
    go_on = asyncio.Event()
    upstream.plays([go_on, *plain(CHAT.answer("slow"))])
    second.plays(plain(CHAT.answer("quick")))
    holding = asyncio.ensure_future(gw.ask(CHAT, "first"))
    await upstream.asked()
    assert said(CHAT, await gw.ask(CHAT, "profile:chain"), stream=False) == "quick"
    answer = await gw.ask(CHAT, "first")
    assert answer.status == 503
    assert answer.json["error"]["code"] == "gateway_overloaded"
    assert answer.headers["Retry-After"] == "1"
    go_on.set()
    assert said(CHAT, await holding, stream=False) == "slow"


# -- context and content -----------------------------------------------------------------------------------------

TOO_LONG = {
    "chat": plain(CHAT.error("invalid_request_error", "This model's maximum context length is 8192 tokens."), 400),
    "messages": plain(MESSAGES.error("invalid_request_error", "prompt is too long: 9 tokens > 8 maximum"), 400),
}


@both_surfaces
@both_ways
async def test_a_full_window_goes_on_to_larger_windows_only(
    upstream: ScriptedUpstream, start: Start, tongue: Tongue, stream: bool
) -> None:
    windows = {"small": "context = 8192", "same": "context = 8192", "unknown": "", "large": "context = 100_000"}
    gw = await start(provider("p", upstream, tongue, models=windows) + chain(*windows))
    upstream.answers(
        lambda seen: (
            good(tongue, "fits", stream=stream) if seen.json["model"] == "native-of-large" else TOO_LONG[tongue.surface]
        )
    )
    answer = await gw.ask(tongue, "profile:chain", stream=stream)
    assert said(tongue, answer, stream=stream) == "fits"
    assert [seen.json["model"] for seen in upstream.seen] == ["native-of-small", "native-of-large"]
    answer = await gw.ask(tongue, "small", stream=stream)
    assert answer.status == 400
    assert answer.body == _first(TOO_LONG[tongue.surface]).partition(b"\r\n\r\n")[2]
    assert answer.headers["x-should-retry"] == "false"


async def test_a_full_window_says_nothing_of_the_candidates_health(upstream: ScriptedUpstream, start: Start) -> None:
    gw = await start(provider("first", upstream))
    upstream.plays(*[TOO_LONG["chat"]] * 6, plain(CHAT.answer("ok")))
    for _ in range(6):
        assert (await gw.ask(CHAT)).status == 400
    assert said(CHAT, await gw.ask(CHAT), stream=False) == "ok"


@both_surfaces
async def test_content_policy_goes_on_where_the_profile_says_so(
    upstream: ScriptedUpstream, second: ScriptedUpstream, start: Start, tongue: Tongue
) -> None:
    table = provider("first", upstream, tongue) + provider("second", second, tongue)
    gw = await start(table + chain("first", "second", more='content_policy = "next"'))
    upstream.plays(ROWS["content policy"].does(tongue, False))
    second.plays(plain(tongue.answer("fine here")))
    assert said(tongue, await gw.ask(tongue, "profile:chain"), stream=False) == "fine here"


# -- rate limits and credentials ---------------------------------------------------------------------------------


def keyed(seen: Any) -> str:
    return str(seen.headers.get("authorization", seen.headers.get("x-api-key"))).removeprefix("Bearer ")


@both_surfaces
async def test_a_rate_limited_key_gives_way_to_the_providers_next_key(
    upstream: ScriptedUpstream, second: ScriptedUpstream, start: Start, tongue: Tongue
) -> None:
    keys = ["canary-key-aaaa", "canary-key-bbbb", "canary-key-cccc"]
    table = provider("first", upstream, tongue, keys=keys) + provider("second", second, tongue)
    gw = await start(table + chain("first", "second"))
    upstream.answers(
        lambda seen: (
            plain(tongue.answer("third key"))
            if keyed(seen) == keys[2]
            else plain(tongue.error("rate_limit_error", "Slow down."), 429, Retry_After=30)
        )
    )
    answer = await gw.ask(tongue, "profile:chain")
    assert said(tongue, answer, stream=False) == "third key"
    assert [keyed(seen) for seen in upstream.seen] == keys
    assert answer.headers["X-Nyuro-Fallback-Used"] == "false"
    await gw.ask(tongue, "profile:chain")
    assert keyed(upstream.seen[3]) == keys[2]  # the others rest
    assert second.seen == []


async def test_a_rate_limit_with_somebody_else_left_is_not_waited_for(
    upstream: ScriptedUpstream, second: ScriptedUpstream, start: Start
) -> None:
    gw = await start(provider("first", upstream) + provider("second", second) + chain("first", "second"))
    upstream.plays(failed(429, "rate_limit_error", Retry_After=1)(CHAT, False))
    second.plays(plain(CHAT.answer("ok")))
    answer = await gw.ask(CHAT, "profile:chain")
    assert said(CHAT, answer, stream=False) == "ok"
    assert len(upstream.seen) == 1


RETRY_AFTER = {
    "seconds": ("30", "30"),
    "a day and more": ("864000", "3600"),
    "the past": ("Wed, 21 Oct 2015 07:28:00 GMT", None),
    "negative": ("-5", None),
    "words": ("soon", None),
}


@both_surfaces
@pytest.mark.parametrize(("sent", "told"), RETRY_AFTER.values(), ids=RETRY_AFTER)
async def test_the_last_rate_limit_is_told_with_a_sane_wait(
    upstream: ScriptedUpstream, start: Start, tongue: Tongue, sent: str, told: str | None
) -> None:
    gw = await start(provider("first", upstream, tongue) + "[retry]\ntries = 1\n" + '[timeouts]\nconnect = "1s"\n')
    script = failed(429, "rate_limit_error", "Slow down.", Retry_After=sent)(tongue, False)
    upstream.plays(script)
    answer = await gw.ask(tongue)
    assert answer.status == 429
    assert answer.body == _first(script).partition(b"\r\n\r\n")[2]
    if told is not None:
        assert answer.headers["Retry-After"] == told
        assert "x-should-retry" not in answer.headers
    else:
        assert int(answer.headers.get("Retry-After", "1")) == 1
    answer = await gw.ask(tongue)  # the key rests: nobody is asked beyond a probe
    assert answer.status in (429, 503)


@pytest.mark.parametrize("status", [401, 402, 403])
@both_surfaces
async def test_our_refused_key_is_never_the_clients_fault_nor_told(
    upstream: ScriptedUpstream, start: Start, tongue: Tongue, status: int
) -> None:
    gw = await start(provider("first", upstream, tongue))
    message = f"Incorrect API key provided: {HOUSE_KEY}. Or was it canar***0001?"
    upstream.plays(failed(status, "authentication_error", message, WWW_Authenticate=HOUSE_KEY)(tongue, False))
    answer = await gw.ask(tongue)
    assert answer.status == 502
    assert code_of(tongue, told_error(tongue, answer)) == "upstream_credentials"
    assert b"canar" not in answer.body
    assert HOUSE_KEY not in str(answer.headers)
    assert HOUSE_KEY not in str(await gw.row(answer.request_id))


async def test_a_masked_key_in_a_providers_words_is_not_told_either(upstream: ScriptedUpstream, start: Start) -> None:
    gw = await start(provider("first", upstream))
    upstream.plays(failed(401, "invalid_request_error", "Incorrect API key provided: cana*****0001.")(CHAT, False))
    assert b"0001" not in (await gw.ask(CHAT)).body


@both_surfaces
@pytest.mark.parametrize("status", [401, 403, 429])
async def test_a_callers_own_key_wins_and_never_falls_back_to_ours(
    upstream: ScriptedUpstream, second: ScriptedUpstream, start: Start, tongue: Tongue, status: int
) -> None:
    table = provider("first", upstream, tongue, keys=[HOUSE_KEY, "canary-house-key-0002"])
    gw = await start(table + provider("second", second, tongue) + chain("first", "second") + "[retry]\ntries = 1\n")
    own = {"X-Nyuro-Key-first": "canary-callers-key"}
    upstream.plays(plain(tongue.answer("paid by you")))
    assert said(tongue, await gw.ask(tongue, headers=own), stream=False) == "paid by you"
    refusal = failed(status, "authentication_error", "Your key is bad.")(tongue, False)
    upstream.plays(refusal)
    second.plays(plain(tongue.answer("second")))
    answer = await gw.ask(tongue, "profile:chain", headers=own)
    assert {keyed(seen) for seen in upstream.seen} == {"canary-callers-key"}
    assert (answer.status, answer.body) == (status, _first(refusal).partition(b"\r\n\r\n")[2])
    assert second.seen == []  # whose key is the house's, too
    assert answer.headers["x-should-retry"] == "false"
    assert not gw.app or not gw.app.gateway.current.world.health.cooldowns(
        gw.app.gateway.clock()
    )  # ours is as fit as before
    assert "canary-callers-key" not in str(await gw.rows(2))


async def test_a_callers_key_that_the_provider_repeats_is_not_told(upstream: ScriptedUpstream, start: Start) -> None:
    gw = await start(provider("first", upstream))
    upstream.plays(failed(401, "invalid_request_error", "Bad key canary-callers-key.")(CHAT, False))
    answer = await gw.ask(CHAT, headers={"X-Nyuro-Key-first": "canary-callers-key"})
    assert answer.status == 401
    assert b"canary" not in answer.body


SPELT = {
    "with a slash escaped": rb"canary-a\/key/of+ours",
    "with a letter escaped": rb"canary\u002da/key/of+ours",
    "as it is": b"canary-a/key/of+ours",
}


@pytest.mark.parametrize("spelt", SPELT.values(), ids=SPELT)
@both_surfaces
async def test_a_key_that_is_repeated_is_not_told_however_it_is_spelt(
    upstream: ScriptedUpstream, start: Start, tongue: Tongue, spelt: bytes
) -> None:
    """Some writers of JSON escape slashes."""
    gw = await start(provider("first", upstream, tongue, keys=["canary-a/key/of+ours"]))
    error = orjson.dumps(tongue.error("invalid_request_error", "Not with THE KEY.")).replace(b"THE KEY", spelt)
    frame = tongue.error_frame("api_error", "Not with THE KEY.").replace(b"THE KEY", spelt)
    for script, stream in (
        (plain(error, 400), False),
        (plain(error, 400), True),
        (streamed([tongue.start, frame]), True),
        (streamed([*tongue.stream("Hi")[:-2], frame]), True),
    ):
        upstream.plays(script)
        answer = await gw.ask(tongue, stream=stream)
        assert b'"error"' in answer.body
        assert b"of+ours" not in answer.body


# -- health, caps, budgets ---------------------------------------------------------------------------------------


async def test_a_candidate_that_keeps_failing_goes_to_the_end(
    upstream: ScriptedUpstream, second: ScriptedUpstream, start: Start
) -> None:
    gw = await start(provider("first", upstream) + provider("second", second) + chain("first", "second"))
    upstream.plays([CUT])
    second.plays(plain(CHAT.answer("ok")))
    for _ in range(6):
        assert (await gw.ask(CHAT, "profile:chain")).status == 200
    assert len(upstream.seen) == 3  # then it rests
    answer = await gw.ask(CHAT, "profile:chain")
    assert answer.headers["X-Nyuro-Candidates"] == "second,first"
    assert answer.headers["X-Nyuro-Fallback-Used"] == "true"


@both_surfaces
async def test_all_cooling_means_three_probes_at_a_time_and_503_for_the_rest(
    upstream: ScriptedUpstream, start: Start, tongue: Tongue
) -> None:
    gw = await start(provider("first", upstream, tongue))
    upstream.plays([CUT])
    for _ in range(3):
        assert (await gw.ask(tongue)).status == 502
    go_on = asyncio.Event()
    upstream.plays([go_on, CUT])
    asked = len(upstream.seen)
    probes = [asyncio.ensure_future(gw.ask(tongue)) for _ in range(3)]
    await upstream.asked(asked + 3)
    rest = await asyncio.gather(*(gw.ask(tongue) for _ in range(5)))
    for answer in rest:
        assert answer.status == 503
        assert code_of(tongue, told_error(tongue, answer)) == "all_candidates_cooling"
        assert 1 <= int(answer.headers["Retry-After"]) <= 30
        assert answer.headers["X-Nyuro-Attempts"] == "0"
    go_on.set()
    assert [answer.status for answer in await asyncio.gather(*probes)] == [502] * 3
    assert len(upstream.seen) == asked + 3
    upstream.plays(plain(tongue.answer("back")))
    assert said(tongue, await gw.ask(tongue), stream=False) == "back"
    assert said(tongue, await gw.ask(tongue), stream=False) == "back"


async def test_while_all_rest_one_attempt_finds_out(upstream: ScriptedUpstream, start: Start) -> None:
    gw = await start(provider("first", upstream))
    upstream.plays(failed(529)(CHAT, False), failed(500)(CHAT, False))
    assert (await gw.ask(CHAT)).status == 503
    answer = await gw.ask(CHAT)
    assert (answer.status, answer.headers["X-Nyuro-Attempts"]) == (500, "1")
    assert len(upstream.seen) == 2


QUICK = '[health]\nfailures = 1\nrest = "1ms"\n[retry]\ntries = 1\n'


async def test_who_rested_is_tried_by_one_request_while_the_others_go_elsewhere(
    upstream: ScriptedUpstream, second: ScriptedUpstream, start: Start
) -> None:
    gw = await start(provider("first", upstream) + provider("second", second) + chain("first", "second") + QUICK)
    second.plays(plain(CHAT.answer("elsewhere")))
    upstream.plays([CUT])
    await gw.ask(CHAT, "profile:chain")
    await asyncio.sleep(0.002)
    go_on = asyncio.Event()
    upstream.plays([go_on, *plain(CHAT.answer("back"))])
    probe = asyncio.ensure_future(gw.ask(CHAT, "profile:chain"))
    await upstream.asked(2)
    others = await asyncio.gather(*(gw.ask(CHAT, "profile:chain") for _ in range(8)))
    assert {said(CHAT, answer, stream=False) for answer in others} == {"elsewhere"}
    assert len(upstream.seen) == 2
    listed = await gw.get(f"{gw.base}/v1/models/first")
    assert listed.json["state"] == "cooling"
    go_on.set()
    assert said(CHAT, await probe, stream=False) == "back"
    assert said(CHAT, await gw.ask(CHAT, "profile:chain"), stream=False) == "back"


async def test_under_total_failure_nobody_is_asked_twice_once_it_is_known(
    upstream: ScriptedUpstream, start: Start
) -> None:
    gw = await start(provider("first", upstream))
    upstream.plays(failed(500)(CHAT, False))
    answers = await asyncio.gather(*(gw.ask(CHAT) for _ in range(200)))
    assert {answer.status for answer in answers} <= {500, 503}
    assert len(upstream.seen) <= 220


async def test_what_may_have_been_billed_counts_against_the_cap_on_cost(
    upstream: ScriptedUpstream, second: ScriptedUpstream, start: Start
) -> None:
    dear, cheap = ({model: f"price = {{ input = {usd}, output = {usd} }}"} for model, usd in (("a", 1000), ("b", 1)))
    models = {**dear, "dear": dear["a"], **cheap}
    gw = await start(provider("first", upstream, models=models) + chain("a", "dear", "b") + "[retry]\ncost = 0.05\n")
    upstream.plays(plain(b"{"), plain(CHAT.answer("cheap")))
    answer = await gw.ask(CHAT, "profile:chain", max_tokens=30)
    assert said(CHAT, answer, stream=False) == "cheap"
    assert [seen.json["model"] for seen in upstream.seen] == ["native-of-a", "native-of-b"]


async def test_a_wait_that_a_failing_provider_names_is_kept_or_told(upstream: ScriptedUpstream, start: Start) -> None:
    gw = await start(provider("first", upstream) + '[retry]\ndeadline = "10s"\n')
    upstream.plays(plain(b"", 503, Retry_After="11"))
    answer = await gw.ask(CHAT)
    assert (answer.status, answer.headers["Retry-After"], len(upstream.seen)) == (503, "11", 1)


async def test_a_request_makes_no_more_attempts_than_allowed(upstream: ScriptedUpstream, start: Start) -> None:
    models = {f"m{number}": "" for number in range(6)}
    gw = await start(provider("p", upstream, models=models) + chain(*models) + "[retry]\nattempts = 3\ntries = 2\n")
    upstream.plays(failed(500)(CHAT, False))
    answer = await gw.ask(CHAT, "profile:chain")
    assert answer.status == 500
    assert [seen.json["model"] for seen in upstream.seen] == ["native-of-m0", "native-of-m0", "native-of-m1"]
    assert answer.headers["X-Nyuro-Attempts"] == "3"


async def test_no_attempt_starts_behind_the_deadline(upstream: ScriptedUpstream, start: Start) -> None:
    models = {"m0": "", "m1": "", "m2": ""}
    gw = await start(provider("p", upstream, models=models) + chain(*models) + '[retry]\ndeadline = "10s"\n')
    assert gw.app is not None
    now = [100.0]
    gw.app.gateway.relay.clock = lambda: now[0]

    def late(_: object) -> Script:
        now[0] += 6
        return [CUT]

    upstream.answers(late)
    answer = await gw.ask(CHAT, "profile:chain")
    assert answer.status == 502
    assert len(upstream.seen) == 2


@pytest.mark.parametrize("status", [500, 429])
async def test_no_retry_is_waited_for_that_would_start_behind_the_deadline(
    upstream: ScriptedUpstream, start: Start, status: int
) -> None:
    gw = await start(provider("p", upstream) + '[retry]\ntries = 3\ndeadline = "10s"\n')
    assert gw.app is not None
    now, relay = [100.0], gw.app.gateway.relay
    relay.clock, relay.dice = (lambda: now[0]), (lambda: 1.0)

    def late(_: object) -> Script:
        now[0] += 9.9  # so that the backoff alone, of 0.2 s here, would pass the deadline
        return failed(status)(CHAT, False)

    upstream.answers(late)
    assert (await gw.ask(CHAT, "p")).status == status
    assert len(upstream.seen) == 1


async def test_retries_of_a_provider_in_trouble_stay_within_a_tenth(upstream: ScriptedUpstream, start: Start) -> None:
    models = {f"m{number}": "" for number in range(100)}
    gw = await start(provider("p", upstream, models=models))
    upstream.plays(failed(500)(CHAT, False))
    for model in models:
        assert (await gw.ask(CHAT, model)).status == 500
    assert len(upstream.seen) <= 100 + 10 + 12  # the budget's ten at once, and a tenth of what was asked


async def test_retries_stop_once_one_answers(upstream: ScriptedUpstream, start: Start) -> None:
    gw = await start(provider("first", upstream))
    upstream.plays(failed(503)(CHAT, False), plain(CHAT.answer("ok")))
    answer = await gw.ask(CHAT)
    assert said(CHAT, answer, stream=False) == "ok"
    assert answer.headers["X-Nyuro-Attempts"] == "2"
    assert answer.headers["X-Nyuro-Fallback-Used"] == "false"


@both_surfaces
@both_ways
async def test_a_failing_dialect_falls_back_to_another_dialect(
    upstream: ScriptedUpstream, second: ScriptedUpstream, start: Start, tongue: Tongue, stream: bool
) -> None:
    other = MESSAGES if tongue is CHAT else CHAT
    gw = await start(provider("first", upstream, tongue) + provider("second", second, other) + chain("first", "second"))
    upstream.plays(error_under_200(tongue, stream))
    second.plays(good(other, "translated", stream=stream))
    answer = await gw.ask(tongue, "profile:chain", stream=stream)
    assert said(tongue, answer, stream=stream) == "translated"


@both_surfaces
async def test_a_foreign_dialects_error_is_told_in_the_clients(
    upstream: ScriptedUpstream, start: Start, tongue: Tongue
) -> None:
    other = MESSAGES if tongue is CHAT else CHAT
    gw = await start(provider("first", upstream, other))
    upstream.plays(failed(422, "invalid_request_error", "Too many cooks.")(other, False))
    answer = await gw.ask(tongue)
    assert answer.status == 422
    error = told_error(tongue, answer)
    assert error["message"] == "Too many cooks."
    assert error["type"] == "invalid_request_error"


async def test_many_requests_at_once_each_get_their_own_answer(upstream: ScriptedUpstream, start: Start) -> None:
    gw = await start(provider("first", upstream))

    def echo(seen: Any) -> Script:
        text = seen.json["messages"][0]["content"]
        return streamed(CHAT.stream(text, text)) if seen.json.get("stream") else plain(CHAT.answer(text))

    async def one(running: Running, number: int) -> None:
        stream = bool(number % 2)
        answer = await running.ask(CHAT, stream=stream, messages=[{"role": "user", "content": f"n{number}."}])
        assert said(CHAT, answer, stream=stream) == f"n{number}." * (1 + stream)

    upstream.answers(echo)
    await asyncio.gather(*(one(gw, number) for number in range(200)))


@pytest.mark.parametrize(("lifetime", "kept"), [("5m", 1), ("off", 0)])
async def test_a_conversation_is_remembered_unless_affinity_is_off(
    upstream: ScriptedUpstream, second: ScriptedUpstream, start: Start, lifetime: str, kept: int
) -> None:
    table = provider("first", upstream) + provider("second", second) + chain("first", "second")
    gw = await start(f'[routing]\naffinity = "{lifetime}"\n{table}')
    upstream.plays(good(CHAT, "hello", stream=False))
    assert (await gw.ask(CHAT, "profile:chain", headers={"X-Session-Id": "s-1"})).status == 200
    await gw.quiet()
    assert gw.app is not None
    assert len(gw.app.gateway.current.world.affinity) == kept
