"""`pointsman replay` and `pointsman explain --request`: what the commands say of the past, from a real ledger."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest
from gateway import Start, provider
from past import HOUSE, NOON, decided, facts_of, planned, table_of, world_of, write
from playbook import CHAT
from upstream import ScriptedUpstream, plain

from proxy.catalog import Listed, load_prices
from proxy.cli import main
from proxy.ir import Usage
from proxy.routing.models import Discovered, Models
from proxy.routing.whatif import Report
from proxy.routing.world import World
from proxy.server.ledger import Attempt, Decision
from proxy.server.ledger.query import Decisions, Filter
from proxy.server.replay import PAGE, Replay
from proxy.server.starting import LEDGER

ALIAS = '[aliases]\nhouse = "{0}"\n'
OLD = HOUSE + ALIAS.format("small")
DEARER = HOUSE + ALIAS.format("large")
GONE = OLD.replace("[models.large]", "[models.larger]").replace('"far-*"', '"other-*"')
USAGE = Usage(input=1_000, output=100)
WIDE = "250"


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", WIDE)
    monkeypatch.setenv("FAR_KEY", "canary-far-key")


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A ledger of ten requests: seven for `house`, two for `large`, one for nobody."""
    made = tmp_path / "state"
    made.mkdir()
    world = world_of(OLD)
    asked = ["house"] * 7 + ["large"] * 2 + ["nobody"]
    write(
        made / LEDGER,
        [decided(number, planned(world, facts_of({"model": model})), USAGE) for number, model in enumerate(asked, 1)],
    )
    return made


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, state: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """`run(table, *words)` replays the ledger against a table: exit code, stdout, stderr."""

    present = tmp_path / "routes.toml"
    present.write_text(OLD)

    def run(table: str, *words: str) -> tuple[int, str, str]:
        against = tmp_path / "new.toml"
        against.write_text(table)
        code = main(["replay", "--config", str(present), "--against", str(against), "--state", str(state), *words])
        told = capsys.readouterr()
        return code, told.out, told.err

    return run


def as_json(run: Run, table: str, *words: str) -> tuple[int, Any]:
    code, out, _ = run(table, "--json", *words)
    return code, orjson.loads(out)


def test_the_same_table_moves_nobody(run: Run) -> None:
    code, document = as_json(run, OLD)
    assert code == 0
    assert document["fates"] == {"refused": 0, "moves": 0, "rescued": 0, "open": 0, "stays": 10}
    assert document["cost"]["delta_nanos"] == 0
    assert document["cost"]["recorded_nanos"] == document["cost"]["before_nanos"] == 7 * 1_200_000 + 2 * 12_000_000
    assert document["skipped"] == {}


def test_moves_come_with_their_cost(run: Run) -> None:
    code, document = as_json(run, DEARER)
    (group,) = [group for group in document["groups"] if group["fate"] == "moves"]
    assert code == 0
    assert (group["requested"], group["requests"]) == ("house", 7)
    assert (group["was"]["model"], group["now"]["model"]) == ("small", "large")
    assert group["cost"]["delta_nanos"] == 7 * 10_800_000
    assert document["denied"] == 0


def test_a_refusal_of_what_was_served_fails_the_job(run: Run) -> None:
    code, document = as_json(run, GONE)
    (group,) = [group for group in document["groups"] if group["fate"] == "refused"]
    assert code == 1
    assert document["denied"] == 2
    assert (group["requested"], group["step"], group["now"]) == ("large", "expand", None)
    assert group["examples"] == [f"req_{9:032x}", f"req_{8:032x}"]


def test_a_refusal_of_what_was_refused_does_not(run: Run) -> None:
    assert run(OLD, "--limit", "1")[0] == 0  # the newest asked for nobody


def test_a_person_reads_shares_and_a_table(run: Run) -> None:
    code, out, err = run(GONE)
    lines = out.splitlines()
    assert code == 1
    assert lines[0].startswith("10 decisions, planned again with ")
    assert "would be refused" in lines[2]
    assert "20.0 %  2 of them were served; by step: expand 2" in lines[2]
    (title,) = [number for number, line in enumerate(lines) if "requested" in line]
    assert lines[title + 1].split()[:4] == ["refused", "2", "large", "large"]
    assert "Not replayed: health" in out
    assert err == ""


def test_a_person_reads_what_a_move_costs(run: Run) -> None:
    _, out, _ = run(DEARER)
    assert "expected cost               0.032400 -> 0.108000 USD (+0.075600, +233.3 %), over 9 requests" in out
    assert "recorded 0.032400 USD, of 9 requests" in out
    (line,) = [line for line in out.splitlines() if line.startswith("moves")]
    assert line.split() == ["moves", "7", "house", "small", "large", "0.008400", "0.084000", "+0.075600", "0.008400"]


def test_capabilities_that_nobody_asked_for_are_named_apart(run: Run) -> None:
    reverse = HOUSE.replace("[models.large]", "[models.larger]") + '[aliases]\nhouse = "small"\nlarge = "small"\n'
    code, out, _ = run(reverse)
    assert code == 0
    (line,) = [line for line in out.splitlines() if line.startswith("moves")]
    assert line.endswith("without code, vision, which nobody asked for")
    assert "would lose a capability             0     0.0 %\n" in out


def test_a_span_and_a_limit_bound_what_is_read(run: Run) -> None:
    assert as_json(run, OLD, "--limit", "3")[1]["replayed"] == 3
    code, out, _ = run(OLD, "--since", "1h")  # the decisions are of 2025
    assert (code, out.splitlines()[0][:20]) == (0, "0 decisions since 20")


def test_all_pages_are_read_once(tmp_path: Path) -> None:
    world = world_of(OLD)
    plan = planned(world, facts_of({"model": "house"}))
    count = 2 * PAGE + 7
    write(tmp_path / LEDGER, [decided(number, plan) for number in range(1, count + 1)])
    told: list[int] = []
    replay = Replay(Decisions(tmp_path / LEDGER), table_of(OLD), load_prices())
    assert replay.run(Filter(), None, told.append).replayed == count
    assert told == [PAGE, 2 * PAGE]
    assert replay.run(Filter(), PAGE + 1, told.append).replayed == PAGE + 1


def test_keys_are_those_of_the_environment_unless_assumed(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FAR_KEY")
    code, out, _ = run(OLD)
    assert code == 1
    assert "by step: credential 2" in out
    assert "Not configured in this environment: far (FAR_KEY is not set). --assume-keys" in out
    code, document = as_json(run, OLD, "--assume-keys")
    assert (code, document["not_configured"], document["fates"]["stays"]) == (0, {}, 10)


def test_what_a_provider_listed_by_itself_is_not_taken_for_gone(tmp_path: Path) -> None:
    found = OLD.replace("[providers.near]", '[providers.near]\ndiscover = "30s"')
    table = table_of(found)
    listed = Models.build(table, load_prices(), [Discovered("near", Listed("qwen:8b"))])
    plan = planned(World(table, listed), facts_of({"model": "qwen:8b"}))
    assert plan.chain
    write(tmp_path / LEDGER, [decided(1, plan)])
    fates = {}
    for name, text in (("discovers", found), ("does not", OLD)):
        report = Replay(Decisions(tmp_path / LEDGER), table_of(text), load_prices()).run(Filter(), None, print)
        fates[name] = fate_of(report)
    assert fates == {"discovers": "stays", "does not": "refused"}


def fate_of(report: Report) -> str:
    (group,) = report.groups.values()
    return group.fate


def test_rows_that_cannot_be_planned_again_are_counted(run: Run, state: Path) -> None:
    plan = planned(world_of(OLD), facts_of({"model": "house"}))
    write(
        state / LEDGER,
        [
            Decision("req_a", NOON, "chat", requested="x", status=400, outcome="invalid_json"),
            decided(20, plan, facts={"tokens_estimated": 3, "needs": []}),
        ],
    )
    code, out, _ = run(OLD)
    assert code == 0
    assert out.startswith("10 decisions")
    assert "Left out: one decision, refused before there was a plan." in out
    assert "Left out: one decision, recorded without what planning it again takes." in out


def test_rules_that_go_by_words_are_told(run: Run) -> None:
    rule = '[[rules]]\nname = "sql"\nmodels = ["house"]\nkeywords = ["select"]\nuse = ["large"]\n'
    _, out, _ = run(OLD + rule)
    assert "Rule sql goes by words or headers, which are not recorded" in out
    assert "not met by 7 requests" in out


def test_a_bad_table_is_told_by_its_own_name(run: Run, tmp_path: Path) -> None:
    code, out, err = run(OLD + "[aliasses]\n")
    assert (code, out) == (1, "")
    assert str(tmp_path / "new.toml") in err


def test_without_a_ledger_there_is_nothing_to_replay(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "new.toml").write_text(OLD)
    assert main(["replay", "--config", str(tmp_path / "new.toml"), "--state", str(tmp_path)]) == 3
    assert "there is no such file" in capsys.readouterr().err


@pytest.mark.parametrize("limit", ["0", "-1", "x"])
def test_a_limit_is_a_number_of_one_or_more(run: Run, limit: str) -> None:
    with pytest.raises(SystemExit, match="2"):
        run(OLD, f"--limit={limit}")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_sees_a_bar_and_is_left_clean(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Terminal()
    monkeypatch.setattr("sys.stderr", screen)
    run(OLD)
    assert "0 of 10 decisions" in screen.getvalue()
    assert screen.getvalue().endswith("\r\x1b[K")


def test_help_shows_how_to_gate_a_change(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["replay", "--help"])
    told = capsys.readouterr().out
    assert "Exits with 1 if a request" in told
    assert "pointsman replay --since 7d --against new-routes.toml" in told


# -- with the gateway itself ---------------------------------------------------------------------------------------


async def test_what_the_gateway_records_can_be_replayed(
    start: Start, upstream: ScriptedUpstream, capsys: pytest.CaptureFixture[str]
) -> None:
    upstream.plays(plain(CHAT.answer("hello")))
    table = provider("first", upstream, models={"first": "price = { input = 1, output = 2 }", "second": ""})
    running = await start(table + '[auto]\nchat = ["first"]\ncode = ["second"]\n')
    said = "the canary sings at dawn"
    for model in ("first", "auto", "nobody"):
        await running.ask(model=model, messages=[{"role": "user", "content": said}])
    rows = await running.rows(3)
    assert said not in orjson.dumps(rows).decode()
    assert {row["facts"]["wanted"][0] for row in rows} == {"first", "auto", "nobody"}

    capsys.readouterr()
    words = ["replay", "--config", str(running.config), "--state", str(running.state), "--json"]
    code = await asyncio.to_thread(main, words)
    document = orjson.loads(capsys.readouterr().out)
    assert (code, document["fates"]["stays"], document["replayed"]) == (0, 3, 3)
    changed = running.config.with_name("changed.toml")
    changed.write_text(running.config.read_text().replace('["first"]', '["second"]'))
    code = await asyncio.to_thread(main, [*words, "--against", str(changed)])
    document = orjson.loads(capsys.readouterr().out)
    assert (code, document["fates"]["moves"]) == (0, 1)


# -- explain --request ---------------------------------------------------------------------------------------------


def told_of(state: Path, decision: Decision, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    write(state / LEDGER, [decision])
    assert main(["explain", "--request", decision.request_id, "--state", str(state), *words]) == 0
    return capsys.readouterr().out


def fallen_back(number: int = 77) -> Decision:
    """The first candidate failed twice, the second answered, a third was passed over."""
    body = {"model": "small", "models": ["large", "house", "dark"]}
    plan = planned(world_of(OLD + '[models.dark]\nprovider = "near"\ncontext = 1\n'), facts_of(body))
    return decided(
        number,
        plan,
        USAGE,
        model="large",
        provider="far",
        native="large",
        fallback_used=True,
        duration_ms=5_210,
        ttfb_ms=310,
        cost_nanos=12_000_000,
        price_source="table",
        attempts=[
            Attempt(1, "small", "near", "small", 4, 100, outcome="upstream_failed", status=503, detail="busy"),
            Attempt(2, "small", "near", "small", 120, 90, outcome="upstream_failed", status=503),
            Attempt(3, "large", "far", "large", 215, 4_900, 95, status=200, usage=USAGE, cost_nanos=12_000_000),
        ],
    )


EXPLAINED = """\
req_0000000000000000000000000000004d  2025-06-15 15:07:57 UTC  chat
  asked for small,large,house,dark
  decided   model small; model large; alias house -> small; model dark
  request   about 4 tokens, no special needs
  answer    200 ok by large at far (large), a fallback
  time      5,210 ms, first byte after 310 ms
  tokens    1,000 in, 100 out
  cost      0.012000 USD (prices: table)
"""
TRIED = """\
  candidates, in the order of the plan
    1. small at near (small), at most 0.008196 USD
       tried at 4 ms for 100 ms: upstream_failed, status 503: busy
       tried at 120 ms for 90 ms: upstream_failed, status 503
    2. large at far (large), at most 0.081960 USD
       tried at 215 ms for 4,900 ms, first byte after 95 ms: ok, status 200, 0.012000 USD

  passed over
    dark at near: needs: needs 4 tokens, the window holds 1
"""


def test_whose_key_it_was_is_told(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    decision = fallen_back()
    decision.key_id = "k1"
    assert "\n  caller    key k1\n" in told_of(state, decision, capsys)
    decision = fallen_back(78)
    decision.key_id, decision.project = "k1", "team-a"
    assert "\n  caller    key k1 of the project team-a\n" in told_of(state, decision, capsys)


def test_a_decision_is_explained_to_a_person(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = told_of(state, fallen_back(), capsys)
    assert told.startswith(EXPLAINED)
    assert told.endswith(TRIED)


def test_a_decision_is_the_record_for_a_program(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = orjson.loads(told_of(state, fallen_back(), capsys, "--json"))
    assert row == Decisions(state / LEDGER).one(row["request_id"])


def test_a_candidate_that_was_not_tried_says_so(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = planned(world_of(OLD), facts_of({"model": "small", "models": ["large"]}))
    assert "2. large at far (large), at most 0.081960 USD: not tried" in told_of(state, decided(78, plan), capsys)


class Cut:
    """What is left of a plan that was far too large."""

    def as_json(self) -> dict[str, Any]:
        return {"reason": "x" * 100_000, "unheard": "y" * 100_000}


ODD: dict[str, Decision] = {
    "without a plan": Decision("req_odd", NOON, "chat", status=400, outcome="invalid_json"),
    "a plan that was cut": Decision("req_odd", NOON, "chat", plan=Cut()),
    "a client that left": Decision(
        "req_odd", NOON, "messages", status=499, outcome="client_closed", gone_phase="stream"
    ),
    "a clock that was far off": Decision("req_odd", 1 << 62, "chat"),
    "an estimate": Decision("req_odd", NOON, "chat", charged_nanos=5, estimated=True, dropped=("seed",)),
    "control characters": Decision("req_odd", NOON, "chat", requested="\x1b[2Jx\r\n"),
}


@pytest.mark.parametrize("decision", ODD.values(), ids=ODD)
def test_every_decision_can_be_explained(state: Path, decision: Decision, capsys: pytest.CaptureFixture[str]) -> None:
    told = told_of(state, decision, capsys)
    assert told.startswith("req_odd")
    assert all(line.isprintable() for line in told.split("\n"))


def test_a_request_that_nobody_knows_is_an_error(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "--request", "req_unknown", "--state", str(state)]) == 1
    assert "no decision has the request id req_unknown" in capsys.readouterr().err


def test_the_classes_cues_are_shown(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    world = world_of(OLD + '[auto]\nchat = ["small"]\n')
    body = {"model": "auto", "messages": [{"role": "user", "content": "Fix this function: def f(x): return x +"}]}
    told = told_of(state, decided(79, planned(world, facts_of(body))), capsys)
    assert "class     code, margin " in told


def test_dice_that_were_not_recorded_fall_the_same_in_every_run(tmp_path: Path) -> None:
    """A profile that is new throws dice that the past never did."""
    write(
        tmp_path / LEDGER,
        [decided(number, planned(world_of(OLD), facts_of({"model": "house"}))) for number in range(1, 50)],
    )
    pair = '{ model = "small", weight = 1 }, { model = "large", weight = 1 }'
    table = table_of(f"{HOUSE}\n[profiles.house]\ncandidates = [{pair}]\n")
    first, second = (
        Replay(Decisions(tmp_path / LEDGER), table, load_prices()).run(Filter(), None, print).as_json()
        for _ in range(2)
    )
    assert first == second
    assert 10 < first["fates"]["moves"] < 40


WORDS: Sequence[str] = ("serve", "check", "explain", "models", "decisions", "replay")


@pytest.mark.parametrize("command", WORDS)
def test_every_command_has_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main([command, "--help"])
    assert f"  pointsman {command} " in capsys.readouterr().out
