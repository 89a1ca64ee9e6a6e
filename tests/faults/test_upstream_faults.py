"""Rows U11 to U69: each variant on each surface, plain and streamed, alone and with a healthy candidate behind."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from attrs import frozen

from faults import table
from faults.bench import SETTING, Daemon, holds_canary
from faults.judging import HEALTHY, NATIVE, TRANSLATED, Hop, Run, Seen, name_of, observed, runs_of
from faults.responses import terminator
from faults.upstream_faults import FAULTS, Fault, Outcome
from proxy.server.respond import LONGEST_RETRY

HERE = "tests/faults/test_upstream_faults.py"
NUMBERS = list(dict.fromkeys(fault.number for fault in FAULTS))
FOREIGN = {"set-cookie", "keep-alive", "x-named", "x-internal", "evil", "access-control-allow-origin", "location"}
# What other tests hold of a row.
BESIDE = {"U40": "memory under 100 MiB over idle (`test_a_bomb_is_never_opened`)"}
STATUSES = {529: {"messages": 529}}  # Anthropic's own; everybody else's word for it is 503


@frozen
class Observed:
    seen: dict[Run, Seen]
    daemon: Daemon
    told: bytes

    def of(self, number: str) -> Iterator[tuple[Run, Seen, Outcome]]:
        for run, seen in self.seen.items():
            fault, (client, provider), stream, _ = run
            if fault.number == number:
                yield run, seen, expected(fault, client.surface, provider.surface, stream=stream)


def expected(fault: Fault, surface: str, spoken: str, *, stream: bool) -> Outcome:
    wanted = fault.stream if stream else fault.plain
    assert wanted is not None
    if 'exchange = "plain"' in SETTING and "plain exchange" in fault.but:
        return fault.but["plain exchange"]
    return (fault.but.get("translated") if surface != spoken else None) or fault.but.get(spoken) or wanted


def _observing(hops: tuple[Hop, ...], served: int = 0) -> Callable[[], Iterator[Observed]]:
    def observing() -> Iterator[Observed]:
        runs = [run for run in runs_of(FAULTS, hops) if not (served and run[-1])]
        with tempfile.TemporaryDirectory(prefix="pm-") as home:
            yield Observed(*asyncio.run(observed(runs, Path(home), served)))

    return observing


native = pytest.fixture(_observing(NATIVE), scope="module", name="native")
served = pytest.fixture(_observing((*NATIVE, *TRANSLATED), served=2), scope="module", name="served")
translated = pytest.fixture(_observing(TRANSLATED), scope="module", name="translated")


def judge(run: Run, seen: Seen, wanted: Outcome) -> None:
    """Raises AssertionError where it did not end as it has to, or broke a rule that holds for every fault."""
    _, (client, _), stream, second = run
    got, row = seen.got, seen.row
    assert got.headers[client.id_header] == row["request_id"]
    assert not holds_canary(b"\r\n".join((*(v.encode() for v in got.headers.values()), got.body)))
    assert b"Traceback" not in got.body
    assert not any("hop" in value or "Evil" in value for value in got.headers.values())
    assert not FOREIGN & got.headers.keys()
    assert got.whole is not wanted.broken
    assert len(row["attempts"]) == row["attempt_count"] if "attempt_count" in row else True
    assert seen.asked <= 2
    left = wanted.code == "ok" or wanted.in_band or wanted.broken
    if second and wanted.on and not left:
        assert (got.status, row["outcome"], row["fallback_used"]) == (200, "ok", True)
        assert HEALTHY in (client.read_stream(got.body) if stream else client.read_text(got.json))
        assert row["attempts"][-1]["outcome"] == "ok"
        assert wanted.code in {attempt["outcome"] for attempt in row["attempts"][:-1]}
        return
    status = STATUSES.get(wanted.status, {}).get(client.surface, 503 if wanted.status == 529 else wanted.status)
    assert (got.status, row["status"], row["outcome"]) == (status, status, wanted.code)
    assert row["attempts"][-1]["outcome"] == wanted.code
    if stream and left:
        assert (terminator(client) in got.body) is (wanted.code == "ok")
    if wanted.in_band:
        assert b'"error"' in got.body or b"event: error" in got.body
    elif wanted.code != "ok" and not wanted.broken:
        assert got.headers["content-type"] == "application/json"
        error = got.json["error"]
        assert all(isinstance(error[name], str) and error[name] for name in ("message", "type"))
    if wanted.text not in (None, "..."):
        said = client.read_stream(got.body) if stream else client.read_text(got.json) if wanted.text else ""
        assert said == wanted.text


def story(run: Run, seen: Seen, exc: AssertionError) -> str:
    attempts = [(attempt["outcome"], attempt["status"], attempt["detail"]) for attempt in seen.row["attempts"]]
    got = (seen.got.status, dict(seen.got.headers), seen.got.body[:300], seen.got.whole)
    return f"{name_of(run)} ({run[0].sent}): {str(exc)[:300]}: {got} {attempts}"


def telling(found: list[tuple[Run, Seen, Outcome]]) -> tuple[str, str, str]:
    """The row's cells: what was sent, what the client saw, what the record says."""
    sent = "; ".join(dict.fromkeys(run[0].sent for run, _, _ in found))
    ways: dict[str, list[str]] = {}
    for (_, _, stream, second), _, wanted in found:
        if not second:
            ways.setdefault(str(wanted), []).append("stream" if stream else "plain")
    saw = "; ".join(
        text if len(ways) == 1 else f"{' and '.join(dict.fromkeys(modes))}: {text}" for text, modes in ways.items()
    )
    if any(w.on and w.code != "ok" and not w.in_band and not w.broken for _, _, w in found):
        saw += "; with another candidate: next"
    record = "; ".join(
        dict.fromkeys(f"{seen.row['status']}, `{seen.row['outcome']}`" for (*_, second), seen, _ in found if not second)
    )
    return sent, saw, record


@pytest.mark.parametrize("number", NUMBERS)
def test_a_providers_fault_ends_as_written(native: Observed, number: str) -> None:
    found = list(native.of(number))
    wrong = []
    for run, seen, wanted in found:
        try:
            judge(run, seen, wanted)
        except AssertionError as exc:
            wrong.append(story(run, seen, exc))
    assert not wrong, "\n".join(wrong[:5])
    sent, saw, record = telling(found)
    saw = "; ".join((saw, BESIDE[number])) if number in BESIDE else saw
    table.tell(number, sent, saw, record, test=f"{HERE}::test_a_providers_fault_ends_as_written")


# what a 429 says of the wait -> what the client is told, in seconds
WAITS = {
    "86400": LONGEST_RETRY,
    "Wed, 21 Oct 2099 07:28:00 GMT": LONGEST_RETRY,
    "retry-after-ms": 900,
    "0": 1,
    "-5": 1,
    "soon": None,
    "Wed, 21 Oct 2015 07:28:00 GMT": 1,
}


def test_a_wait_is_told_in_sane_seconds(native: Observed) -> None:
    """Row U67; nobody is kept waiting for it meanwhile."""
    told: dict[str, set[str | None]] = {}
    for (fault, *_, second), seen, _ in native.of("U67"):
        if not second:
            told.setdefault(fault.sent.rpartition(" with ")[2].removeprefix("Retry-After: "), set()).add(
                seen.got.headers.get("retry-after")
            )
    assert told == {said: {None if seconds is None else str(int(seconds))} for said, seconds in WAITS.items()}


def test_a_key_that_is_refused_raises_an_alarm(native: Observed) -> None:
    refused = [line for line in native.daemon.lines() if line.get("event") == "credential_refused"]
    names = {name_of(run) for run, *_ in native.of("U65")}
    assert names <= {line["provider"] for line in refused}
    assert {line["level"] for line in refused} == {"error"}


@pytest.mark.slow
@pytest.mark.parametrize("number", NUMBERS)
def test_a_providers_fault_ends_as_written_in_translation(translated: Observed, number: str) -> None:
    wrong = []
    for run, seen, wanted in translated.of(number):
        try:
            judge(run, seen, wanted)
        except AssertionError as exc:
            wrong.append(story(run, seen, exc))
    assert not wrong, "\n".join(wrong[:5])


@pytest.mark.slow
@pytest.mark.parametrize("number", NUMBERS)
def test_a_fault_ends_as_written_where_the_same_was_served_before(served: Observed, number: str) -> None:
    """Requests of a kind that is known take shorter ways, and frames that are known a shorter look."""
    wrong = []
    for run, seen, wanted in served.of(number):
        try:
            judge(run, seen, wanted)
        except AssertionError as exc:
            wrong.append(story(run, seen, exc))
    assert not wrong, "\n".join(wrong[:5])


def test_no_key_is_anywhere(native: Observed) -> None:
    """Log, metrics and database after all of it; the answers are looked at one by one."""
    assert holds_canary(native.told) == []
    assert b"request_done" in native.told
    assert b"SQLite format 3" in native.told


def test_each_request_has_one_row_and_one_line(native: Observed) -> None:
    ids = [seen.row["request_id"] for seen in native.seen.values()]
    lines = [line["request_id"] for line in native.daemon.lines() if line.get("event") == "request_done"]
    assert len(set(ids)) == len(ids)
    assert sorted(lines) == sorted(ids)


def test_nothing_of_ours_went_wrong(native: Observed) -> None:
    events = {line["event"] for line in native.daemon.lines()}
    assert "internal_error" not in events
    assert "background_task_died" not in events
