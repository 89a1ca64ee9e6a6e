"""What stands for a list: aliases, industries, profiles, and the draws among weights."""

from __future__ import annotations

from collections import Counter
from decimal import Decimal
from fractions import Fraction
from random import Random

import pytest
from each import each
from scenes import EVERY, HOUSE, KEYS, OPENAI, asks, chain, fates, half, planned, scripted, shipped, world_of

from proxy import errors
from proxy.routing.facts import Ceiling
from proxy.routing.plan import resolve

LISTS = """
[aliases]
one = "a"
two = ["b", "one"]
deep = ["two", "strategy:cost", "industry:field"]
[industries.field]
models = ["c", "profile:team"]
[profiles.team]
candidates = ["home", "a"]
[auto]
chat = ["industry:field", "b"]
"""


def test_names_that_stand_for_names_come_out_in_order() -> None:
    world = world_of(HOUSE + LISTS)
    assert chain(planned(world, "two")) == ["b", "a"]
    assert chain(planned(world, "industry:field")) == ["c", "home", "a"]
    assert chain(planned(world, "deep"))[:3] == ["b", "a", "home"]  # then the cheapest
    assert chain(planned(world, "auto", turns=("hi",))) == ["c", "home", "a", "b"]


def test_the_reason_speaks_of_what_the_request_named() -> None:
    world = world_of(HOUSE + LISTS)
    assert planned(world, "two").reason == "alias two -> b, one"
    assert planned(world, "one", "c").reason == "alias one -> a; model c"
    assert planned(world, "industry:field;sort:price").reason == "industry field -> its list; sorted by price"
    assert planned(world, "q-x").reason == "pattern q-* -> q"
    assert planned(world, "p/x").reason == "p's own name x"
    assert planned(world, "nobody").reason == "nothing resolved"


def test_a_reason_is_given_once_however_many_entries_have_it() -> None:
    plan = planned(world_of(HOUSE), "q-1", "q-2", "q-3")
    assert chain(plan) == ["q-1", "q-2", "q-3"]
    assert plan.reason == "pattern q-* -> q"


def test_the_intent_is_the_first_entry_s() -> None:
    world = world_of(HOUSE + LISTS)
    for name, intent in {
        "a": "model",
        "one": "alias",
        "auto": "auto",
        "industry:field": "industry",
        "strategy:cost": "strategy",
        "team": "profile",
        "nobody": "unknown",
    }.items():
        assert planned(world, name, turns=("hi",)).intent == intent


def test_a_chain_of_eight_names_is_followed() -> None:
    aliases = "".join(f'n{n} = "n{n + 1}"\n' for n in range(7)) + 'n7 = "a"\n'
    assert chain(planned(world_of(f"{HOUSE}[aliases]\n{aliases}"), "n0")) == ["a"]


def test_an_entry_that_stands_for_nothing_is_said_and_the_others_serve() -> None:
    plan = planned(world_of(HOUSE), "nobody", "industry:none", "a")
    assert chain(plan) == ["a"]
    assert [name for name, _ in plan.unknown] == ["nobody", "industry:none"]
    dropped = plan.as_json()["dropped"]
    assert [(it["model"], it["step"]) for it in dropped] == [("nobody", "expand"), ("industry:none", "expand")]


# -- profiles ----------------------------------------------------------------------------------------------------

WEIGHTED = """
[profiles.mixed]
candidates = [
    { model = "a", weight = 80 },
    { model = "b", weight = 20 },
    "c",
    { model = "home", weight = 1 },
    { model = "keyless", weight = 0 },
]
[profiles.steady]
sticky = true
candidates = [{ model = "a", weight = 80 }, { model = "b", weight = 20 }]
[profiles.idle]
candidates = [{ model = "a", weight = 0 }, { model = "b", weight = 0 }]
"""


@each(
    ("fall", "order"),
    [(0.0, ["a", "b"]), (0.79999, ["a", "b"]), (0.8, ["b", "a"]), (0.99999, ["b", "a"])],
)
def test_weighted_neighbours_are_drawn_and_the_others_stand(fall: float, order: list[str]) -> None:
    plan = planned(world_of(HOUSE + WEIGHTED), "profile:mixed", dice=scripted(fall, 0.5))
    assert chain(plan) == [*order, "c", "home"]
    assert plan.profile == "mixed"
    assert plan.reason == f"profile mixed; drew {order[0]} by weight; drew home by weight"
    assert plan.draws == (fall, 0.5)


def test_a_draw_falls_as_its_weights_say() -> None:
    world = world_of(HOUSE + WEIGHTED)
    falls = [(n + 0.5) / 1000 for n in range(1000)]
    heads = Counter(chain(planned(world, "mixed", dice=scripted(fall, 0.5)))[0] for fall in falls)
    assert heads == {"a": 800, "b": 200}


def test_weights_of_nothing_leave_the_order() -> None:
    assert chain(planned(world_of(HOUSE + WEIGHTED), "idle", dice=half)) == ["a", "b"]


def test_a_sticky_draw_is_made_once_per_conversation_and_throws_no_dice() -> None:
    world = world_of(HOUSE + WEIGHTED)
    for start in ("0" * 32, "7" * 32, "c" * 32, "f" * 32):
        first = planned(world, "steady", conversation=start, dice=scripted())
        assert all(
            chain(planned(world, "steady", conversation=start, dice=scripted())) == chain(first) for _ in range(3)
        )
    shares = Counter(
        chain(planned(world, "steady", conversation=f"{n:02x}" + "0" * 30, dice=scripted()))[0] for n in range(256)
    )
    assert Fraction(shares["a"], 256) == Fraction(205, 256)  # 80 % of the keys, to the digit


def test_a_sticky_profile_without_a_conversation_throws_dice() -> None:
    world = world_of(HOUSE + WEIGHTED)
    assert chain(planned(world, "steady", dice=scripted(0.9))) == ["b", "a"]


def test_a_profile_s_sort_orders_its_own_chain_and_a_suffix_orders_it_anew() -> None:
    text = HOUSE + '[profiles.p1]\nsort = "price"\ncandidates = ["b", "a", "c"]\n'
    world = world_of(text)
    assert chain(planned(world, "p1")) == ["c", "a", "b"]
    assert chain(planned(world, "p1;sort:quality")) == ["b", "a", "c"]
    assert chain(planned(world, "b", "p1")) == ["b", "c", "a"]


# 100 tokens in, 1,000 out: a costs 0.0021 USD at most, b 0.0093, c 0.00055.
CAPPED = HOUSE + '[profiles.thrifty]\nmax_price = 0.0021\ncandidates = ["b", "a", "c"]\n'


def test_a_profile_s_max_price_drops_what_may_cost_more() -> None:
    plan = planned(world_of(CAPPED), "thrifty", max_tokens=1_000)
    assert chain(plan) == ["a", "c"]
    assert fates(plan)["b"] == ("price", "may cost 0.0093 USD, the ceiling is 0.0021")


def test_a_profile_s_max_price_is_a_default_and_the_request_s_own_wins() -> None:
    world = world_of(CAPPED)
    assert chain(planned(world, "thrifty;max_price:0.01", max_tokens=1_000)) == ["b", "a", "c"]
    assert chain(planned(world, "thrifty;max_price:0.001", max_tokens=1_000)) == ["c"]
    ceiling = Ceiling(Decimal("0.01"))
    assert chain(planned(world, "thrifty", max_tokens=1_000, ceiling=ceiling)) == ["b", "a", "c"]
    assert chain(planned(world, "thrifty", "b", max_tokens=1_000)) == ["a", "c", "b"]  # b's own entry has no ceiling


def test_of_two_suffixes_on_the_way_the_lower_ceiling_holds() -> None:
    world = world_of(HOUSE + '[aliases]\nlow = ["b;max_price:0.001", "a;max_price:0.01", "c"]\n')
    assert chain(planned(world, "low", max_tokens=1_000)) == ["a", "c"]
    assert chain(planned(world, "low;max_price:1", max_tokens=1_000)) == ["a", "c"]
    assert chain(planned(world, "low;max_price:0.001", max_tokens=1_000)) == ["c"]


# -- the embedded provider ---------------------------------------------------------------------------------------

EMBEDDED = """
[providers.embedded]
dialect = "openai-chat"
local = true
[models."embedded/echo"]
provider = "embedded"
native = "echo"
[auto]
chat = ["a", "b"]
[aliases]
any = "auto"
one = "a"
[industries.field]
models = ["b"]
"""


@each("name", ["auto", "any", "industry:field", "strategy:cost", "strategy:local"])
def test_on_a_first_run_the_embedded_provider_joins_what_leaves_the_choice(name: str) -> None:
    text = (HOUSE + EMBEDDED).replace('api_key = "none"', 'api_key = "${LOCAL_KEY}"')
    plan = planned(world_of(text, {}), name, turns=("hi",))
    assert chain(plan) == ["embedded/echo"]
    assert plan.reason.endswith("no provider is configured, so the embedded one joins")


@each("name", ["a", "one", "q-x", "p/x"])
def test_it_never_joins_a_concrete_name(name: str) -> None:
    text = (HOUSE + EMBEDDED).replace('api_key = "none"', 'api_key = "${LOCAL_KEY}"')
    plan = planned(world_of(text, {}), name)
    assert isinstance(plan.refusal, errors.NotConfigured)


def test_it_never_stands_in_for_a_provider_that_the_caller_has_a_key_for() -> None:
    text = (HOUSE + EMBEDDED).replace('api_key = "none"', 'api_key = "${LOCAL_KEY}"')
    plan = planned(world_of(text, {}), "auto", turns=("hi",), byok=frozenset({"p"}))
    assert chain(plan) == ["a"]
    stranger = planned(world_of(text, {}), "auto", turns=("hi",), byok=frozenset({"nobody"}))
    assert chain(stranger) == ["embedded/echo"]


def test_it_never_joins_where_another_is_configured() -> None:
    for name in ("auto", "any", "industry:field", "strategy:cost", "strategy:local"):
        assert "embedded/echo" not in chain(planned(world_of(HOUSE + EMBEDDED, KEYS), name, turns=("hi",)))


def test_enabled_false_removes_it() -> None:
    text = (HOUSE + EMBEDDED).replace('api_key = "none"', 'api_key = "${LOCAL_KEY}"')
    world = world_of(text.replace("[providers.embedded]", "[providers.embedded]\nenabled = false"), {})
    assert isinstance(planned(world, "auto", turns=("hi",)).refusal, errors.NotConfigured)
    assert isinstance(planned(world, "embedded/echo").refusal, errors.UnknownModel)


# -- the class ---------------------------------------------------------------------------------------------------


def test_auto_without_lists_resolves_to_nothing() -> None:
    plan = planned(world_of(HOUSE), "auto", turns=("hi",))
    assert isinstance(plan.refusal, errors.UnknownModel)
    assert "resolves to no model" in plan.refusal.message


def test_a_request_is_classified_once_however_often_it_says_auto() -> None:
    plan = planned(world_of(HOUSE + LISTS), "auto", "auto;sort:price", turns=("hi",))
    assert chain(plan) == ["c", "home", "a", "b"]


def test_an_unclear_request_takes_the_safe_class_and_says_so() -> None:
    text = HOUSE + '[auto]\nchat = ["a"]\ncode = ["b"]\nsafe = "code"\n'
    plan = planned(world_of(text), "auto", turns=("",))
    assert plan.klass is not None
    if plan.klass.fallback:
        assert (chain(plan), plan.reason) == (["b"], "no clear class -> code list")


@pytest.mark.parametrize("seed", range(20))
def test_the_same_dice_give_the_same_plan(seed: int) -> None:
    world = shipped({**EVERY, **OPENAI})
    facts = asks("general", "strategy:latency", "interactive")
    plans = [resolve(facts, world, Random(seed).random, 5.0) for _ in range(2)]
    assert plans[0] == plans[1]


def test_a_draw_is_among_those_that_can_serve() -> None:
    world = world_of(HOUSE + WEIGHTED)
    for fall in (0.0, 0.5, 0.99):
        assert planned(world, "mixed", needs={"vision"}, dice=scripted(fall)).chain[0].candidate.model == "b"


def test_lists_of_lists_stay_bounded() -> None:
    text = "".join(f"n{n} = [{', '.join([f'{chr(34)}n{n + 1}{chr(34)}'] * 50)}]\n" for n in range(7))
    assert chain(planned(world_of(f'{HOUSE}[aliases]\n{text}n7 = "a"\n'), "n0")) == ["a"]
