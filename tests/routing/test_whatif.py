from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from attrs import evolve
from each import each
from past import HOUSE, decided, facts_of, planned, row_of, table_of, without_words, world_of

from proxy.catalog import Listed, load_prices
from proxy.errors import GatewayError, InvalidRequest
from proxy.ir import Usage
from proxy.routing.facts import Ceiling, Past
from proxy.routing.models import Discovered, Models
from proxy.routing.names import Candidate
from proxy.routing.plan import Plan, resolve
from proxy.routing.recorded import Unreplayable, dice_again, facts_from_record
from proxy.routing.whatif import (
    FATES,
    MOST_GROUPS,
    OTHERS,
    Move,
    Report,
    Unmeasured,
    compare,
    with_all_keys,
)
from proxy.routing.world import World

TEAM = "[projects.team-a]\n"
AUTO = TEAM + '[auto]\ncode = ["large", "small"]\nchat = ["small", "large"]\n'
CODE = [{"role": "user", "content": "Fix this Python function: def f(x): return x +"}]
SMALL, LARGE = Candidate("small", "near", "small"), Candidate("large", "far", "large")


def no_more() -> float:
    raise AssertionError("more dice than were recorded")


# -- facts come back ---------------------------------------------------------------------------------------------

REQUESTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "a plain one": ({"model": "small"}, {}),
    "auto": ({"model": "auto", "messages": CODE}, {}),
    "several entries": ({"model": "small", "models": ["large", "nobody"]}, {}),
    "its size": ({"model": "small", "max_tokens": 700, "n": 3}, {}),
    "its needs": ({"model": "large", "tools": [{"type": "function", "function": {"name": "f"}}]}, {}),
    "a ceiling": ({"model": "small", "max_price": "0.000001"}, {}),
    "a ceiling per million": ({"model": "small", "max_price": {"prompt": 1.5, "completion": 0}}, {}),
    "a sort": ({"model": "small", "models": ["large"], "sort": "quality"}, {}),
    "a sort within each entry": ({"model": "small", "models": ["large"]}, {"sort": "price", "partitioned": True}),
    "OpenRouter's wishes": (
        {"model": "large", "provider": {"order": ["far"], "ignore": ["near"], "allow_fallbacks": False}},
        {},
    ),
    "an industry": ({"model": "small", "metadata": {"industry": "legal"}}, {}),
    "who asks": ({"model": "large"}, {"project": "team-a", "byok": frozenset({"far"}), "stream": True}),
    "a budget": ({"model": "small", "models": ["large"]}, {"priced_only": True}),
    "another surface": ({"model": "small"}, {"surface": "messages", "dialect": "anthropic"}),
    "a name of many alphabets": ({"model": "模型-\u202e"}, {}),
}


@each(("body", "more"), REQUESTS.values(), ids=REQUESTS)
def test_facts_come_back_from_their_record_but_for_the_words(body: dict[str, Any], more: dict[str, Any]) -> None:
    facts = facts_of(body, **more)
    plan = planned(world_of(HOUSE + AUTO), facts)
    assert facts_from_record(row_of(decided(1, plan))) == without_words(facts, plan)


@each(("body", "more"), REQUESTS.values(), ids=REQUESTS)
def test_the_same_table_plans_the_same_again(body: dict[str, Any], more: dict[str, Any]) -> None:
    world = world_of(HOUSE + AUTO)
    plan = planned(world, facts_of(body, **more))
    again = planned(world, facts_from_record(row_of(decided(1, plan))))
    assert (again.chain, again.leads, again.dropped, again.reason) == (
        plan.chain,
        plan.leads,
        plan.dropped,
        plan.reason,
    )


def test_a_project_that_the_other_table_lacks_is_refused_there_and_its_bounds_count() -> None:
    plan = planned(world_of(HOUSE + AUTO), facts_of({"model": "large"}, project="team-a"))
    facts = facts_from_record(row_of(decided(1, plan)))
    for table, why in {
        HOUSE: "the table has no project team-a",
        HOUSE + '[projects.team-a]\nproviders = ["near"]\n': "the project team-a may not use the provider far",
    }.items():
        again = planned(world_of(table), facts)
        assert (again.emptied_by, [gone.reason for gone in again.dropped]) == ("policy", [why])


def test_a_record_holds_nothing_of_what_was_said() -> None:
    secret = "the canary sings at dawn"
    facts = facts_of(
        {"model": "auto", "messages": [{"role": "system", "content": secret}, {"role": "user", "content": secret}]},
        headers={"authorization": f"Bearer {secret}"},
        conversation="0123456789abcdef" * 2,
    )
    kept = str(facts.as_json())
    assert secret not in kept
    assert "canary" not in kept
    assert "01234" not in kept  # four digits of a conversation's key, which tell nobody apart


def test_a_ceiling_comes_back_exact() -> None:
    facts = evolve(facts_of({"model": "small"}), ceiling=Ceiling(Decimal("0.1000000000000000000001")))
    row = row_of(decided(1, planned(world_of(HOUSE), facts)))
    assert facts_from_record(row).ceiling == facts.ceiling


def test_a_sticky_draw_falls_the_same_way() -> None:
    world = world_of(weighted(1, 1) + "sticky = true\n")
    for digit in "0123456789abcdef":
        plan = planned(world, facts_of({"model": "p"}, conversation=digit * 32))
        assert planned(world, facts_from_record(row_of(decided(1, plan)))).leads == plan.leads


UNREADABLE: dict[str, tuple[dict[str, Any], str]] = {
    "refused before a plan": ({"plan": None}, "before there was a plan"),
    "facts that were too large": ({"facts": {"cut": True}}, "too large"),
    "no facts": ({"facts": None}, "too large"),
    "an older record": ({"facts": {"tokens_estimated": 7, "needs": []}}, "without what"),
    "a plan that was cut to its reason": ({"plan": {"cut": {}, "reason": "x"}}, "without what"),
    "facts of another form": ({"facts": {"wanted": ["small"]}}, "form"),
    "a price that is none": ({"facts": facts_of({"model": "small"}).as_json() | {"ceiling": {"total": "x"}}}, "form"),
}


@each(("change", "why"), UNREADABLE.values(), ids=UNREADABLE)
def test_what_cannot_be_planned_again_says_why(change: dict[str, Any], why: str) -> None:
    row = row_of(decided(1, planned(world_of(HOUSE), facts_of({"model": "small"})))) | change
    with pytest.raises(Unreplayable, match=why):
        facts_from_record(row)


# -- the class, the rules, the dice --------------------------------------------------------------------------------


def replayed(before: str, after: str, body: dict[str, Any], **more: Any) -> tuple[Move, Plan]:
    """One request planned under a table and compared under another."""
    plan = planned(world_of(before), facts_of(body, **more.pop("facts", {})))
    row = row_of(decided(1, plan, **more))
    world = evolve(world_of(after), latencies=Unmeasured())
    facts = facts_from_record(row)
    outcome: Plan | GatewayError
    try:
        outcome = resolve(facts, world, dice_again(row, no_more), 0.0)
    except GatewayError as error:
        outcome = error
    return compare(row, facts, outcome, world), plan


def test_auto_keeps_the_class_that_was_recorded() -> None:
    move, plan = replayed(HOUSE + AUTO, HOUSE + AUTO, {"model": "auto", "messages": CODE})
    assert plan.klass is not None
    assert plan.klass.label == "code"
    assert (move.fate, move.was, move.guessed) == ("stays", LARGE, False)


def test_an_unclear_class_takes_the_other_tables_safe_one() -> None:
    facts = facts_of({"model": "auto"})
    kept = evolve(facts, past=Past(planned(world_of(HOUSE + AUTO), facts).klass, None))
    assert kept.past is not None
    assert kept.past.klass is not None
    unclear = evolve(kept, past=Past(evolve(kept.past.klass, label="chat", fallback=True)))
    plan = planned(world_of(f'{HOUSE}{AUTO}safe = "code"'), unclear)
    assert plan.klass is not None
    assert plan.klass.label == "code"


def test_a_class_that_nobody_asked_for_is_guessed_and_says_so() -> None:
    move, _ = replayed(HOUSE + AUTO + '[aliases]\nx = "large"', HOUSE + AUTO + '[aliases]\nx = "auto"', {"model": "x"})
    assert (move.fate, move.now, move.guessed) == ("moves", SMALL, True)


KEYWORDS = '[[rules]]\nname = "sql"\nkeywords = ["select"]\nuse = ["large"]\n'
SELECT = {"model": "auto", "messages": [{"role": "user", "content": "Explain SELECT 1"}]}


def test_a_rule_that_matched_by_its_words_matches_again() -> None:
    move, plan = replayed(HOUSE + AUTO + KEYWORDS, HOUSE + AUTO + KEYWORDS, SELECT)
    assert plan.rule == "sql"
    assert (move.fate, move.undecided) == ("stays", None)


def test_a_rule_that_did_not_match_is_undecided_only_where_it_fits_otherwise() -> None:
    headers = '[[rules]]\nname = "beta"\nheaders = { x-team = "b" }\nuse = ["large"]\ntokens = { min = 1000 }\n'
    assert replayed(HOUSE + AUTO, HOUSE + AUTO + KEYWORDS, {"model": "auto"})[0].undecided == "sql"
    assert replayed(HOUSE + AUTO, HOUSE + AUTO + KEYWORDS, {"model": "small"})[0].undecided is None
    assert replayed(HOUSE + AUTO, HOUSE + AUTO + headers, {"model": "auto"})[0].undecided is None


def test_a_rule_on_facts_alone_is_decided_anew() -> None:
    sized = '[[rules]]\nname = "short"\ntokens = { max = 100 }\nuse = ["large"]\n'
    move, _ = replayed(HOUSE + AUTO, HOUSE + AUTO + sized, {"model": "auto"})
    assert (move.fate, move.now, move.undecided) == ("moves", LARGE, None)


def weighted(small: int, large: int) -> str:
    pair = f'{{ model = "small", weight = {small} }}, {{ model = "large", weight = {large} }}'
    return f"{HOUSE}\n[profiles.p]\ncandidates = [{pair}]\n"


def test_weights_that_stay_move_nobody_and_a_shift_moves_its_share() -> None:
    old, same, shifted = (world_of(weighted(*pair)) for pair in ((80, 20), (80, 20), (50, 50)))
    moved = {"same": 0, "shifted": 0}
    back = 0
    for number in range(400):
        plan = planned(old, facts_of({"model": "p"}), number)
        row = row_of(decided(number, plan))
        for name, world in (("same", same), ("shifted", shifted)):
            again = resolve(facts_from_record(row), world, dice_again(row, no_more), 0.0)
            moved[name] += again.leads != plan.leads
            back += (plan.leads, again.leads) == (LARGE, SMALL)
    assert moved["same"] == 0
    assert 80 < moved["shifted"] < 160  # 30 % of 400; the dice are seeded
    assert back == 0  # nobody moves against the shift


# -- moves ---------------------------------------------------------------------------------------------------------

ALIAS = '[aliases]\nhouse = "{0}"\n'
USAGE = Usage(input=1_000, output=100)
VISION = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}]


def house(alias: str, text: str = HOUSE) -> str:
    return text + ALIAS.format(alias)


def test_a_move_has_its_cost_by_what_the_answer_took() -> None:
    move, _ = replayed(house("small"), house("large"), {"model": "house"}, usage=USAGE)
    assert (move.fate, move.was, move.now) == ("moves", SMALL, LARGE)
    assert (move.before, move.after, move.recorded) == (1_200_000, 12_000_000, 1_200_000)


def test_without_a_usage_both_sides_are_estimated() -> None:
    move, plan = replayed(house("small"), house("large"), {"model": "house", "max_tokens": 100})
    tokens = plan.facts.tokens
    assert (move.before, move.after) == (tokens * 1_000 + 200_000, tokens * 10_000 + 2_000_000)
    assert move.recorded is None


def test_a_price_that_nobody_knows_is_unknown_and_not_nothing() -> None:
    unpriced = HOUSE + '[models.dark]\nprovider = "near"\n'
    move, _ = replayed(house("small"), house("dark", unpriced), {"model": "house"}, usage=USAGE)
    assert (move.fate, move.after) == ("moves", None)
    assert move.before is not None


def test_before_is_priced_by_the_other_table() -> None:
    dearer = HOUSE.replace("input = 1, output = 2", "input = 3, output = 3")
    move, _ = replayed(house("small"), house("small", dearer), {"model": "house"}, usage=USAGE)
    assert (move.fate, move.before, move.after, move.recorded) == ("stays", 3_300_000, 3_300_000, 1_200_000)


def test_a_model_of_a_provider_that_is_gone_has_no_price() -> None:
    renamed = HOUSE.replace("far]", "farther]").replace('"far"', '"farther"')
    move, _ = replayed(house("large"), house("small", renamed), {"model": "house"}, usage=USAGE)
    assert (move.fate, move.before) == ("moves", None)
    assert move.after == 1_200_000


def test_a_model_that_is_gone_is_known_by_the_catalog_in_force() -> None:
    old = HOUSE + '[models.dear]\nprovider = "near"\nprice = { input = 100, output = 0 }\ncapabilities = ["vision"]\n'
    present = world_of(house("dear", old))
    row = row_of(decided(1, planned(present, facts_of({"model": "house"})), USAGE))
    other = world_of(house("small"))
    facts = facts_from_record(row)
    alone = compare(row, facts, planned(other, facts), other)
    both = compare(row, facts, planned(other, facts), other, present.models)
    assert (alone.before, alone.without) == (None, frozenset())
    assert (both.before, both.without) == (100_000_000, frozenset({"vision"}))


def test_a_native_name_that_changes_is_a_move() -> None:
    renamed = HOUSE.replace('provider = "near"', 'provider = "near"\nnative = "small-2"')
    move, _ = replayed(HOUSE, renamed, {"model": "small"})
    assert (move.fate, move.now) == ("moves", Candidate("small", "near", "small-2"))


REFUSALS: dict[str, tuple[str, dict[str, Any], str]] = {
    "a name that is gone": (HOUSE.replace("[models.small]", "[models.tiny]"), {"model": "small"}, "expand"),
    "a provider that is switched off": (
        HOUSE.replace("[providers.near]", "[providers.near]\nenabled = false"),
        {"model": "small"},
        "policy",
    ),
    "a window that is too small": (
        HOUSE.replace('provider = "near"', 'provider = "near"\ncontext = 1'),
        {"model": "small"},
        "needs",
    ),
    "a key that is not set": (HOUSE.replace("FAR_KEY", "OTHER_KEY"), {"model": "large"}, "credential"),
    "a price above the ceiling": (
        HOUSE.replace("input = 1, output = 2", "input = 100000, output = 200000"),
        {"model": "small", "max_price": 0.5},
        "price",
    ),
}


@each(("after", "body", "step"), REFUSALS.values(), ids=REFUSALS)
def test_a_refusal_names_its_step(after: str, body: dict[str, Any], step: str) -> None:
    move, _ = replayed(HOUSE, after, body)
    assert (move.fate, move.step, move.now, move.served, move.after) == ("refused", step, None, True, None)
    assert move.reason


def test_a_capability_that_was_needed_is_named() -> None:
    blind = HOUSE.replace(', "vision"', "")
    move, _ = replayed(HOUSE, blind, {"model": "large", "messages": VISION})
    assert (move.fate, move.step) == ("refused", "needs")
    assert move.lacks == {"vision"}


def test_a_capability_that_nobody_asked_for_is_no_loss() -> None:
    move, _ = replayed(house("large"), house("small"), {"model": "house"})
    assert move.fate == "moves"
    assert (move.loses, move.without, move.lacks) == (frozenset(), frozenset({"vision", "code"}), frozenset())
    assert replayed(house("small"), house("large"), {"model": "house"})[0].without == frozenset()


def test_a_capability_that_was_needed_and_is_gone_is_a_loss() -> None:
    """A name that stands alone is taken at its word where what is known of it is a guess."""
    old = HOUSE.replace("[models.large]", '[models."llama3.1"]')
    row = row_of(decided(1, planned(world_of(old), facts_of({"model": "llama3.1", "messages": VISION}))))
    table = table_of(HOUSE.replace('none"', 'none"\ndiscover = "5m"', 1))
    found = frozenset({Discovered("near", Listed("llama3.1"))})
    world, facts = World(table, Models.build(table, load_prices(), found)), facts_from_record(row)
    move = compare(row, facts, planned(world, facts), world)
    assert move.fate == "moves"
    assert (move.loses, move.without) == (frozenset({"vision"}), frozenset())


def test_a_name_with_a_suffix_that_is_no_name_any_more_is_refused() -> None:
    odd = HOUSE + '[models."small;sort:best"]\nprovider = "near"\n'
    move, _ = replayed(odd, HOUSE, {"model": "small;sort:best"})
    assert (move.fate, move.step) == ("refused", "expand")
    assert "sort" in move.reason


def test_what_was_refused_may_be_served_or_stay_so() -> None:
    assert replayed(HOUSE, house("small"), {"model": "house"})[0].fate == "rescued"
    move, _ = replayed(HOUSE, HOUSE, {"model": "nobody"})
    assert (move.fate, move.served, move.before, move.after) == ("stays", False, None, None)


def test_an_order_by_times_is_open_while_the_old_leader_is_still_in_it() -> None:
    body = {"model": "large", "models": ["small"], "sort": "latency"}
    world = world_of(HOUSE)
    world.latencies.observe(SMALL, 10.0, 0.0)
    plan = planned(world, facts_of(body))
    assert plan.leads == SMALL
    row = row_of(decided(1, plan))
    for text, fate in ((HOUSE, "open"), (HOUSE.replace("[models.small]", "[models.tiny]"), "moves")):
        other = evolve(world_of(text), latencies=Unmeasured())
        facts = facts_from_record(row)
        move = compare(row, facts, planned(other, facts), other)
        assert move.fate == fate
        assert move.now == (SMALL if fate == "open" else LARGE)


def test_health_and_pins_do_not_count_as_moves() -> None:
    """A plan whose leader was cooling is compared by who would have led."""
    world = world_of(HOUSE)
    plan = planned(world, facts_of({"model": "small", "models": ["large"]}))
    cooled = evolve(plan, chain=plan.chain[::-1])
    assert cooled.leads == SMALL
    row = row_of(decided(1, cooled))
    facts = facts_from_record(row)
    assert compare(row, facts, planned(world, facts), world).fate == "stays"


def test_a_pattern_is_not_confused_with_the_model_that_had_its_name() -> None:
    """The old native name is looked up for its price, and must not become what the pattern stands for."""
    old = HOUSE + '[models.far-one]\nprovider = "far"\nnative = "far-old"\n'
    move, _ = replayed(old, HOUSE, {"model": "far-one"})
    assert (move.was, move.now) == (Candidate("far-one", "far", "far-old"), Candidate("far-one", "far", "far-one"))


# -- the sum -------------------------------------------------------------------------------------------------------


def move(number: int = 1, **more: Any) -> Move:
    named: dict[str, Any] = {"request_id": f"r{number}", "requested": "x"}
    return Move(**(named | {"fate": "stays", "was": SMALL, "now": SMALL, "served": True} | more))


def test_moves_are_grouped_and_summed_over_what_is_known_on_both_sides() -> None:
    report = Report()
    report.add(move(1, fate="moves", now=LARGE, before=10, after=30, recorded=11))
    report.add(move(2, fate="moves", now=LARGE, before=10, after=None, recorded=None))
    report.add(move(3, before=5, after=5, recorded=5))
    (group,) = report.of("moves")
    assert (group.count, group.priced, group.before, group.after, group.recorded) == (2, 1, 10, 30, 11)
    document = report.as_json()
    assert document["fates"] == {"refused": 0, "moves": 2, "rescued": 0, "open": 0, "stays": 1}
    assert document["cost"] == {
        "priced": 2,
        "before_nanos": 15,
        "after_nanos": 35,
        "delta_nanos": 20,
        "costed": 2,
        "recorded_nanos": 16,
    }
    assert sum(document["fates"].values()) == document["replayed"] == 3


def test_a_cost_that_is_known_of_nobody_is_null() -> None:
    report = Report()
    report.add(move(before=None, after=None))
    cost = report.as_json()["cost"]
    assert (cost["before_nanos"], cost["delta_nanos"], cost["recorded_nanos"]) == (None, None, None)


def test_only_what_was_served_counts_as_denied() -> None:
    report = Report()
    refused: dict[str, Any] = {"fate": "refused", "now": None, "step": "needs", "reason": "why", "lacks": {"vision"}}
    report.add(move(1, **refused))
    report.add(move(2, **refused, served=False))
    assert (report.count("refused"), report.denied, report.losing) == (2, 1, 2)
    assert report.of("refused")[0].as_json()["examples"] == ["r1", "r2"]


def test_a_client_that_asks_for_ever_new_names_does_not_fill_the_memory() -> None:
    report = Report()
    for number in range(MOST_GROUPS + 100):
        report.add(move(number, requested=f"name-{number}"))
    assert len(report.groups) == MOST_GROUPS + 1
    assert report.of("stays")[0].requested == OTHERS
    assert report.replayed == MOST_GROUPS + 100


def test_every_fate_is_told_in_json() -> None:
    report = Report()
    for fate in FATES:
        report.add(move(fate=fate))
    assert [group["fate"] for group in report.as_json()["groups"]] == list(FATES)


# -- keys ----------------------------------------------------------------------------------------------------------


def test_assumed_keys_configure_all_but_the_disabled() -> None:
    text = HOUSE.replace("http://near.test", "${NEAR_URL}").replace(
        "[providers.far]", "[providers.far]\nenabled = false"
    )
    table = with_all_keys(table_of(text, env={}))
    assert {name: provider.configured for name, provider in table.providers.items()} == {"near": True, "far": False}


def test_assumed_keys_drop_nobody_for_a_credential() -> None:
    table = table_of(HOUSE, env={})
    assert planned(world(table), facts_of({"model": "large"})).emptied_by == "credential"
    assert planned(world(with_all_keys(table)), facts_of({"model": "large"})).leads == LARGE


def world(table: Any) -> World:
    return evolve(world_of(HOUSE), table=table)


def test_a_malformed_entry_is_told_as_it_was_refused() -> None:
    facts = evolve(facts_of({"model": "small"}), past=Past())
    row = row_of(decided(1, planned(world_of(HOUSE), facts)))
    told = compare(row, facts, InvalidRequest("model: bad"), world_of(HOUSE))
    assert (told.fate, told.step, told.reason) == ("refused", "expand", "model: bad")


def test_who_is_named_twice_stands_where_it_was_named_first() -> None:
    plan = planned(world_of(HOUSE + ALIAS.format("small")), facts_of({"model": "small", "models": ["large", "house"]}))
    assert [pick.candidate for pick in plan.chain] == [SMALL, LARGE]
