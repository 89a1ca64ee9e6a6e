"""The pipeline step by step: who is dropped and why, the order of the rest, what is refused."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any, cast

import pytest
from attrs import evolve
from each import each
from scenes import HOUSE, KEYS, asks, candidate, chain, cool, fates, planned, world_of

from proxy import errors, ir
from proxy.errors import GatewayError
from proxy.routing.draft import MOST
from proxy.routing.facts import Ceiling, Preferences
from proxy.routing.names import Candidate
from proxy.routing.plan import MOST_TOLD
from proxy.routing.world import World, worst_nanos
from proxy.server.respond import STATUS

ALL = ("a", "b", "c", "home", "keyless")

# what the request has beside its five names -> who is dropped, at which step, why
DROPS: dict[str, tuple[dict[str, Any], dict[str, tuple[str, str]]]] = {
    "nothing but the key that is missing": ({}, {}),
    "only": (
        {"preferences": Preferences(only=("p", "bare"))},
        {"b": ("policy", "not among provider.only"), "home": ("policy", "not among provider.only")},
    ),
    "ignore": (
        {"preferences": Preferences(ignore=("p",))},
        {"a": ("policy", "among provider.ignore"), "c": ("policy", "among provider.ignore")},
    ),
    "no fallbacks": (
        {"preferences": Preferences(allow_fallbacks=False)},
        dict.fromkeys(("b", "c", "home"), ("policy", "provider.allow_fallbacks is false")),
    ),
    "tools": ({"needs": {"tools"}}, {"c": ("needs", "lacks tools")}),
    "vision": (
        {"needs": {"vision"}},
        {"a": ("needs", "lacks vision"), "c": ("needs", "lacks vision"), "home": ("needs", "lacks vision")},
    ),
    "several": (
        {"needs": {"tools", "thinking", "json"}},
        {
            "a": ("needs", "lacks thinking"),
            "c": ("needs", "lacks json, thinking, tools"),
            "home": ("needs", "lacks json, thinking"),
            "keyless": ("needs", "lacks thinking"),
        },
    ),
    "a window": (
        {"tokens": 31_001, "max_tokens": 1_000},
        {
            "c": ("needs", "needs 32001 tokens, the window holds 8000"),
            "home": ("needs", "needs 32001 tokens, the window holds 32000"),
        },
    ),
    "an answer too long for it": (
        {"max_tokens": 1_001},
        {"a": ("needs", "asked for up to 1001 tokens, it writes 1000")},
    ),
    "a window that is just large enough": ({"tokens": 7_000, "max_tokens": 1_000}, {}),
    "a ceiling": (
        {"max_tokens": 1_000, "ceiling": Ceiling(Decimal("0.0021"))},
        {"b": ("price", "may cost 0.0093 USD, the ceiling is 0.0021")},
    ),
    "a ceiling without max_tokens": (
        {"ceiling": Ceiling(Decimal("0.002"))},
        {
            "a": ("price", "may cost 0.0021 USD, the ceiling is 0.002 (max_tokens is not given: 1000 assumed)"),
            "b": ("price", "may cost 0.0183 USD, the ceiling is 0.002 (max_tokens is not given: 2000 assumed)"),
            "c": ("price", "may cost 0.002098 USD, the ceiling is 0.002 (max_tokens is not given: 4096 assumed)"),
        },
    ),
    "a ceiling per million of the prompt": (
        {"ceiling": Ceiling(prompt=Decimal(1))},
        {"b": ("price", "costs 3 USD per million prompt tokens, the ceiling is 1")},
    ),
    "a ceiling per million of the completion": (
        {"ceiling": Ceiling(completion=Decimal("1.5"))},
        {
            "a": ("price", "costs 2 USD per million completion tokens, the ceiling is 1.5"),
            "b": ("price", "costs 9 USD per million completion tokens, the ceiling is 1.5"),
        },
    ),
}


@each(("more", "drops"), DROPS.values(), ids=DROPS)
def test_each_step_says_whom_it_drops_and_why(more: dict[str, Any], drops: dict[str, tuple[str, str]]) -> None:
    plan = planned(world_of(HOUSE), *ALL, **more)
    told = fates(plan)
    told.setdefault("keyless", ("credential", "BARE_KEY is not set"))
    assert told == {"keyless": ("credential", "BARE_KEY is not set"), **drops}
    assert chain(plan) == [id for id in ALL if id not in told]


def test_another_endpoint_than_chat() -> None:
    text = HOUSE.replace(
        'base_url = "http://p.test/v1"', 'base_url = "http://p.test/v1"\nendpoints = ["chat", "embeddings"]'
    )
    plan = planned(world_of(text), "a", "b", endpoint="embeddings")
    assert chain(plan) == ["a"]
    assert fates(plan) == {"b": ("needs", "the provider does not serve embeddings")}


def test_a_disabled_provider_is_a_matter_of_policy() -> None:
    world = world_of(HOUSE.replace("[providers.q]", "[providers.q]\nenabled = false"))
    assert fates(planned(world, "a", "b")) == {"b": ("policy", "the provider is disabled")}
    assert "b" not in chain(planned(world, "strategy:cost"))


OWN_KEYS: dict[str, tuple[tuple[str, ...], frozenset[str], list[str]]] = {  # names, keys of one's own, the chain
    "the house's key does not follow": (("a", "b", "c"), frozenset({"p"}), ["a", "c"]),
    "what the order puts first was asked at the house's expense anyway": (("b", "a"), frozenset({"p"}), ["b", "a"]),
    "another key of one's own follows": (("a", "b"), frozenset({"p", "q"}), ["a", "b"]),
    "who needs no key follows": (("a", "b", "home"), frozenset({"p"}), ["a", "home"]),
    "a key for nobody in the chain changes nothing": (("a", "b"), frozenset({"bare"}), ["a", "b"]),
    "a profile may let it follow": (("profile:open",), frozenset({"p"}), ["a", "b"]),
    "another profile does not": (("profile:shut",), frozenset({"p"}), ["a"]),
}
PROFILES = """
[profiles.open]
candidates = ["a", "b"]
byok_fallback = true
[profiles.shut]
candidates = ["a", "b"]
"""


@each("resting", [False, True], ids=["fit", "resting"])
@each(("names", "byok", "expected"), OWN_KEYS.values(), ids=OWN_KEYS)
def test_what_is_asked_with_a_key_of_ones_own_does_not_go_on_at_the_houses_expense(
    names: tuple[str, ...], byok: frozenset[str], expected: list[str], resting: bool
) -> None:
    """Whether its candidate is fit or not: a provider that is down makes nobody pay for whom they did not choose."""
    world = world_of(HOUSE + PROFILES)
    if resting:
        cool(world, [candidate(world, "a")])
    plan = planned(world, *names, byok=byok)
    assert sorted(chain(plan)) == sorted(expected)
    assert resting or chain(plan) == expected
    reason = ("credential", "the house's key does not follow the caller's own")
    assert all(fate == reason for fate in fates(plan).values())
    assert not fates(plan) or "b" in fates(plan)


def test_a_caller_s_own_key_mends_a_missing_one_and_nothing_else() -> None:
    assert chain(planned(world_of(HOUSE), "keyless", byok=frozenset({"bare"}))) == ["keyless"]
    text = HOUSE.replace("http://bare.test/v1", "${BARE_URL}")
    plan = planned(world_of(text), "keyless", byok=frozenset({"bare"}))
    assert fates(plan) == {"keyless": ("credential", "BARE_URL and BARE_KEY are not set")}


def test_a_model_whose_price_nobody_knows_fails_every_ceiling() -> None:
    text = HOUSE + '[models.dark]\nprovider = "p"\nnative = "nobody-ever-listed-this"\n'
    for ceiling, said in (
        (Ceiling(Decimal(1000)), "its price is unknown, and the ceiling is 1000 USD"),
        (Ceiling(prompt=Decimal(9)), "its prompt price is unknown, and the ceiling is 9 USD per million tokens"),
    ):
        plan = planned(world_of(text), "dark", ceiling=ceiling)
        assert fates(plan) == {"dark": ("price", said)}
        assert isinstance(plan.refusal, errors.PriceCeiling)


# -- money, to the nano -------------------------------------------------------------------------------------------

CACHED: dict[str, tuple[str, str | None, int]] = {
    "no marker": ("cache_write = 4, cache_write_1h = 6", None, 3),
    "five minutes": ("cache_write = 4, cache_write_1h = 6", "5m", 4),
    "an hour": ("cache_write = 4, cache_write_1h = 6", "1h", 6),
    "an hour without a price of its own": ("cache_write = 4", "1h", 4),
    "a write that is cheaper": ("cache_write = 1", "5m", 3),
}


@each(("rates", "life", "usd"), CACHED.values(), ids=CACHED)
def test_all_input_may_be_written_to_the_cache(rates: str, life: str | None, usd: int) -> None:
    world = world_of(HOUSE.replace("input = 3, output = 9", f"input = 3, output = 9, {rates}"))
    facts = asks("b", tokens=1_000_000, max_tokens=0)
    facts = evolve(facts, shape=evolve(facts.shape, cache_write=cast("ir.CacheLife | None", life)))
    assert worst_nanos(world.models.listed["b"], facts) == usd * 10**9


def test_a_small_ceiling_is_written_as_a_plain_number() -> None:
    refusal = planned(world_of(HOUSE), "b", ceiling=Ceiling(Decimal("1E-8"))).refusal
    assert refusal is not None
    assert "the ceiling is 0.00000001" in refusal.message


WORST: dict[str, tuple[dict[str, Any], int]] = {
    "what the request allows": ({"max_tokens": 100}, 100 * 3_000 + 100 * 9_000),
    "the model's cap": ({}, 100 * 3_000 + 2_000 * 9_000),
    "more than the cap": ({"max_tokens": 5_000}, 100 * 3_000 + 2_000 * 9_000),
    "n answers": ({"max_tokens": 100, "n": 3}, 100 * 3_000 + 300 * 9_000),
    "no output": ({"max_tokens": 0}, 100 * 3_000),
}


@each(("more", "nanos"), WORST.values(), ids=WORST)
def test_the_worst_case_is_exact(more: dict[str, Any], nanos: int) -> None:
    world = world_of(HOUSE)
    plan = planned(world, "b", **more)
    assert worst_nanos(plan.chain[0].info, plan.facts) == nanos
    usd = Decimal(nanos) / 10**9
    assert chain(planned(world, "b", ceiling=Ceiling(usd), **more)) == ["b"]
    less = Ceiling(usd - Decimal("0.000000001"))
    assert isinstance(planned(world, "b", ceiling=less, **more).refusal, errors.PriceCeiling)


def test_a_fraction_of_a_nano_is_rounded_up() -> None:
    text = HOUSE.replace("price = { input = 1, output = 2 }", "price = { input = 0.0001, output = 0 }")
    world = world_of(text)
    assert chain(planned(world, "a", tokens=1, ceiling=Ceiling(Decimal("0.000000001")))) == ["a"]
    assert planned(world, "a", tokens=1, ceiling=Ceiling(Decimal("0.0000000009"))).refusal is not None


def test_of_a_suffix_and_the_request_s_own_ceiling_the_lower_holds() -> None:
    world = world_of(HOUSE)
    for suffix, usd in (("0.001", "1"), ("1", "0.001")):
        plan = planned(world, f"b;max_price:{suffix}", "c", max_tokens=1_000, ceiling=Ceiling(Decimal(usd)))
        assert fates(plan)["b"] == ("price", "may cost 0.0093 USD, the ceiling is 0.001")


def test_a_suffix_binds_its_own_entry_alone() -> None:
    plan = planned(world_of(HOUSE), "b;max_price:0.001", "a", "b", max_tokens=1_000)
    assert chain(plan) == ["a", "b"]  # the last entry has no ceiling
    assert plan.first == plan.chain[1].candidate


# -- order -------------------------------------------------------------------------------------------------------


def test_a_suffix_sorts_its_own_entry_and_the_request_s_sort_the_whole_chain() -> None:
    world = world_of(HOUSE + '[aliases]\nlist = ["b", "a"]\n')
    assert chain(planned(world, "c", "list;sort:price", "home")) == ["c", "a", "b", "home"]
    assert chain(planned(world, "c", "list", "home", sort="price")) == ["home", "c", "a", "b"]
    assert chain(planned(world, "c", "list", "home", sort="quality")) == ["b", "a", "c", "home"]
    assert planned(world, "list", sort="price").reason == "alias list -> b, a; sorted by price"


def test_a_sort_by_what_was_observed() -> None:
    world = world_of(HOUSE)
    for id, ms, rate in (("a", 900.0, 10.0), ("b", 300.0, 5.0), ("c", 500.0, 50.0)):
        world.latencies.observe(candidate(world, id), ms, 0.0, rate)
    assert chain(planned(world, "a", "b", "c", "home", sort="latency")) == ["b", "c", "home", "a"]
    assert chain(planned(world, "a", "b", "c", "home", sort="throughput")) == ["c", "a", "b", "home"]


def test_an_unknown_price_sorts_last_and_equal_ones_stand() -> None:
    text = HOUSE + '[models.dark]\nprovider = "p"\nnative = "nobody-ever-listed-this"\n'
    text += '[models.a2]\nprovider = "p"\nprice = { input = 1, output = 2 }\n'
    world = world_of(text)
    assert chain(planned(world, "dark", "b", "a2", "a", sort="price")) == ["a2", "a", "b", "dark"]
    assert chain(planned(world, "dark", "b", "a", "a2", sort="price")) == ["a", "a2", "b", "dark"]


def test_a_provider_order_goes_first_and_the_rest_stands() -> None:
    world = world_of(HOUSE)
    wishes = Preferences(order=("local", "q"))
    assert chain(planned(world, "a", "b", "c", "home", preferences=wishes)) == ["home", "b", "a", "c"]
    twice = Preferences(order=("local", "q", "local", "q"))
    assert chain(planned(world, "a", "b", "c", "home", preferences=twice)) == ["home", "b", "a", "c"]
    only_first = Preferences(order=("local", "q"), allow_fallbacks=False)
    plan = planned(world, "a", "b", "home", preferences=only_first)
    assert chain(plan) == ["home"]
    assert plan.first == candidate(world, "home")


def test_who_is_named_twice_stands_where_it_is_named_first() -> None:
    world = world_of(HOUSE)
    assert chain(planned(world, "a", "b", "a")) == ["a", "b"]
    assert chain(planned(world, "b", "a", "strategy:quality"))[:2] == ["b", "a"]
    assert planned(world, "keyless", "keyless;sort:price", "a").dropped == planned(world, "keyless", "a").dropped


def test_a_chain_holds_sixteen() -> None:
    text = HOUSE + "".join(f'[models.m{n}]\nprovider = "p"\n' for n in range(30))
    world = world_of(text)
    names = [f"m{n}" for n in range(20)]
    plan = planned(world, *names)
    assert chain(plan) == names[:MOST]
    assert fates(plan) == dict.fromkeys(names[MOST:], ("cap", "a chain holds 16 candidates"))
    assert len(planned(world, "strategy:cost").chain) == MOST


def test_the_cap_counts_those_who_can_serve() -> None:
    text = HOUSE + "".join(f'[models.m{n}]\nprovider = "{"bare" if n < 30 else "p"}"\n' for n in range(50))
    plan = planned(world_of(text), *(f"m{n}" for n in range(50)))
    assert chain(plan) == [f"m{n}" for n in range(30, 46)]
    assert len(plan.dropped) == 34


# -- health ------------------------------------------------------------------------------------------------------


def test_a_cooling_candidate_goes_last_not_away() -> None:
    world = world_of(HOUSE)
    cool(world, [candidate(world, "a")])
    plan = planned(world, "a", "b", "c", now=1.0)
    assert chain(plan) == ["b", "c", "a"]
    assert (plan.first, plan.leads) == (candidate(world, "a"), candidate(world, "a"))
    assert plan.cooling == 0
    assert chain(planned(world, "a", "b", now=31.0)) == ["a", "b"]


def test_where_all_cool_the_one_that_recovers_first_leads() -> None:
    world = world_of(HOUSE)
    for id, now in (("a", 8.0), ("b", 2.0), ("c", 5.0)):
        cool(world, [candidate(world, id)], now)
    plan = planned(world, "a", "b", "c", now=10.0)
    assert chain(plan) == ["b", "c", "a"]
    assert plan.cooling == 22.0


def test_a_provider_whose_keys_all_rest_rests() -> None:
    text = HOUSE.replace('api_key = "${P_KEY}"', 'api_keys = ["${P_KEY}", "${P2_KEY}"]')
    world = world_of(text, {**KEYS, "P2_KEY": "p2-0123456789"})
    a, limited = candidate(world, "a"), errors.UpstreamRateLimited("slow down", retry_after=20.0)
    world.health.failed(a, 0, limited, 0.0)
    assert chain(planned(world, "a", "b", now=1.0)) == ["a", "b"]
    world.health.failed(a, 1, limited, 5.0)
    assert chain(planned(world, "a", "c", "b", now=6.0)) == ["b", "a", "c"]
    assert chain(planned(world, "b", "a", now=6.0, byok=frozenset({"p"}))) == ["b", "a"]
    own = planned(world, "a", "b", now=6.0, byok=frozenset({"p"}))  # a key that is brought does not rest
    assert (chain(own), own.cooling) == (["a"], 0.0)
    assert chain(planned(world, "a", "b", now=20.5)) == ["a", "b"]


def test_a_strategy_looks_past_its_cooling_leaders() -> None:
    text = HOUSE + "".join(f'[models.m{n:02}]\nprovider = "p"\nreasoning = {99 - n}\n' for n in range(40))
    world = world_of(text)
    cool(world, [candidate(world, f"m{n:02}") for n in range(20)])
    fit = chain(planned(world, "strategy:quality", now=1.0))
    assert len(fit) == MOST
    assert not set(fit) & {f"m{n:02}" for n in range(20)}


# -- affinity ----------------------------------------------------------------------------------------------------

TALK = "c" * 32


def pinned_to(id: str, now: float = 0.0, text: str = HOUSE) -> World:
    world = world_of(text)
    world.affinity.pin(TALK, candidate(world, id), now)
    return world


def test_a_conversation_stays_where_its_cache_is_warm() -> None:
    plan = planned(pinned_to("c"), "a", "b", "c", conversation=TALK, continues=True, now=299.0)
    assert chain(plan) == ["c", "a", "b"]
    assert plan.reason.endswith("stays where the conversation's cache is warm")
    assert plan.first == plan.leads == plan.chain[1].candidate


UNPINNED: dict[str, tuple[str, dict[str, Any]]] = {
    "another conversation": (HOUSE, {"conversation": "d" * 32}),
    "no conversation": (HOUSE, {"conversation": None}),
    "a conversation that only now begins": (HOUSE, {"continues": False}),
    "too long ago": (HOUSE, {"now": 300.1}),
    "switched off": (HOUSE + '[routing]\naffinity = "off"\n', {}),
    "the pinned one lacks what is needed": (HOUSE, {"needs": {"json"}}),
    "the pinned one is too dear": (HOUSE, {"ceiling": Ceiling(Decimal("0.000001")), "max_tokens": 1}),
    "the caller wants no fallbacks": (HOUSE, {"preferences": Preferences(allow_fallbacks=False)}),
    "the caller will not have it": (HOUSE, {"preferences": Preferences(ignore=("p",))}),
}


@each(("text", "more"), UNPINNED.values(), ids=UNPINNED)
def test_a_pin_is_a_wish(text: str, more: dict[str, Any]) -> None:
    asked: dict[str, Any] = {"conversation": TALK, "continues": True, "now": 1.0} | more
    plan = planned(pinned_to("c", text=text), "a", "b", "home", "c", **asked)
    assert chain(plan)[:1] != ["c"]
    assert "warm" not in plan.reason


def test_a_pin_breaks_while_its_candidate_rests_and_where_nobody_named_it() -> None:
    world = pinned_to("c")
    assert chain(planned(world, "a", "b", conversation=TALK, continues=True)) == ["a", "b"]
    cool(world, [candidate(world, "c")])
    assert chain(planned(world, "a", "c", conversation=TALK, continues=True, now=1.0)) == ["a", "c"]


def test_a_pin_is_for_the_native_name_too() -> None:
    world = world_of(HOUSE)
    world.affinity.pin(TALK, Candidate("c", "p", "c-of-yesterday"), 0.0)
    assert chain(planned(world, "a", "c", conversation=TALK, continues=True)) == ["a", "c"]


def test_a_pin_reaches_beyond_the_cap() -> None:
    text = HOUSE + "".join(f'[models.m{n:02}]\nprovider = "p"\nreasoning = {99 - n}\n' for n in range(40))
    plan = planned(pinned_to("m33", text=text), "strategy:quality", conversation=TALK, continues=True)
    assert chain(plan)[0] == "m33"
    assert len(plan.chain) == len(set(chain(plan))) == MOST
    assert "m33" not in fates(plan)


# -- the first ---------------------------------------------------------------------------------------------------


def test_the_first_is_the_first_however_it_was_passed_over() -> None:
    world = world_of(HOUSE)
    keyless = candidate(world, "keyless")
    assert planned(world, "keyless", "a").first == keyless
    assert planned(world, "c", "a", needs={"tools"}).first == candidate(world, "c")
    assert planned(world, "b", "a", preferences=Preferences(ignore=("q",))).first == candidate(world, "b")
    assert planned(world, "b;max_price:0", "a").first == candidate(world, "b")
    assert planned(world, "b", "a", sort="price").first == candidate(world, "a")


def test_who_cannot_serve_was_never_a_strategy_s_first() -> None:
    world = world_of(HOUSE)
    plan = planned(world, "strategy:quality", needs={"vision"})
    assert fates(plan)["keyless"][0] == "credential"  # the strongest reasoner by the table
    assert plan.first == plan.leads == candidate(world, "b")
    assert planned(world, "strategy:cost", "a", needs={"thinking"}).first == candidate(world, "b")
    assert planned(world, "keyless", "strategy:cost").first == candidate(world, "keyless")


def test_a_strategy_of_whom_nobody_can_serve_has_no_first() -> None:
    plan = planned(world_of(HOUSE), "strategy:cost", needs={"audio"})
    assert plan.first is plan.leads is None
    assert isinstance(plan.refusal, errors.NoCapableCandidate)


# -- refusals ----------------------------------------------------------------------------------------------------

REFUSALS: dict[str, tuple[tuple[str, ...], dict[str, Any], type[GatewayError], int, str | None, str]] = {
    "nothing resolved": (("nobody",), {}, errors.UnknownModel, 404, "expand", "The model 'nobody' does not exist"),
    "policy": (("a",), {"preferences": Preferences(only=("q",))}, errors.NotAllowed, 403, "policy", "a (p): not among"),
    "needs": (("c",), {"needs": {"vision"}}, errors.NoCapableCandidate, 400, "needs", "c (p): lacks vision"),
    "credential": (("keyless",), {}, errors.NotConfigured, 503, "credential", "keyless (bare): BARE_KEY is not set"),
    "price": (("b",), {"ceiling": Ceiling(Decimal(0))}, errors.PriceCeiling, 400, "price", "b (q): may cost"),
    "the last step that dropped somebody": (
        ("a", "keyless"),
        {"needs": {"vision"}},
        errors.NotConfigured,
        503,
        "credential",
        "a (p): lacks vision; keyless (bare): BARE_KEY is not set",
    ),
    "the same, the other way round": (
        ("keyless", "a"),
        {"needs": {"vision"}},
        errors.NotConfigured,
        503,
        "credential",
        "keyless (bare): BARE_KEY is not set; a (p): lacks vision",
    ),
    "an unknown name beside one that was dropped": (
        ("nobody", "c"),
        {"needs": {"tools"}},
        errors.NoCapableCandidate,
        400,
        "needs",
        "c (p): lacks tools; 'nobody': no model, alias, profile or pattern has this name",
    ),
    "several unknown names": (
        ("nobody", "industry:none", "else"),
        {},
        errors.UnknownModel,
        404,
        "expand",
        "Neither does: 'industry:none', 'else'.",
    ),
}


@each(("names", "more", "kind", "status", "step", "said"), REFUSALS.values(), ids=REFUSALS)
def test_an_empty_chain_is_refused_by_the_step_that_emptied_it(
    names: tuple[str, ...], more: Mapping[str, Any], kind: type[GatewayError], status: int, step: str, said: str
) -> None:
    plan = planned(world_of(HOUSE), *names, **more)
    assert plan.chain == ()
    assert type(plan.refusal) is kind
    assert STATUS[kind] == status
    assert said in plan.refusal.message
    assert plan.refusal.param == "model"
    assert plan.emptied_by == step


def test_a_plan_with_a_chain_was_emptied_by_nobody() -> None:
    assert planned(world_of(HOUSE), "a", "keyless").emptied_by is None


def test_a_refusal_lists_sixteen_and_counts_the_others() -> None:
    text = HOUSE + "".join(f'[models.m{n}]\nprovider = "bare"\n' for n in range(30))
    refusal = planned(world_of(text), *(f"m{n}" for n in range(30))).refusal
    assert refusal is not None
    assert refusal.message.count("BARE_KEY") == 16
    assert refusal.message.endswith("; and 14 more.")


# -- as JSON -----------------------------------------------------------------------------------------------------


def test_a_plan_as_json_has_the_names_that_it_keeps() -> None:
    world = world_of(HOUSE + '[auto]\nchat = ["a", "keyless"]\n')
    plan = planned(world, "auto", "nobody", turns=("Hi there! How are you?",), needs={"tools"}, max_tokens=10)
    document = plan.as_json()
    assert document["requested"] == "auto,nobody"
    assert document["intent"] == "auto"
    assert document["class"]["label"] == "chat"
    assert {"label", "margin", "features"} <= set(document["class"])
    assert document["candidates"] == [
        {"model": "a", "provider": "p", "native": "a", "cost_max_usd": 0.00012, "price_source": "table"}
    ]
    assert document["dropped"] == [
        {"model": "keyless", "provider": "bare", "step": "credential", "reason": "BARE_KEY is not set"},
        {
            "model": "nobody",
            "provider": None,
            "step": "expand",
            "reason": "no model, alias, profile or pattern has this name",
        },
    ]
    assert (document["needs"], document["tokens_estimated"]) == (["tools"], 100)
    assert document["config"] == world.table.revision
    assert document["rule"] is document["profile"] is None


def test_a_plan_as_json_says_who_rests_and_why() -> None:
    world = world_of(HOUSE)
    cool(world, [candidate(world, "a")])
    plan = planned(world, "a", "b", now=10.0)
    document = plan.as_json()
    assert plan.reason.endswith("a is resting")
    assert document["waiting"] == [{"model": "a", "provider": "p", "seconds": 20.0, "reason": "upstream_failed"}]
    assert (document["cooling"], document["pinned"]) == (0.0, None)
    cool(world, [candidate(world, "b")])
    both = planned(world, "a", "b", now=10.0)
    assert both.as_json()["cooling"] == 20.0
    assert "resting" not in planned(world, "a", "b", now=31.0).reason


def test_a_plan_as_json_says_what_it_is_pinned_to() -> None:
    plan = planned(pinned_to("c"), "a", "c", conversation=TALK, continues=True)
    assert plan.as_json()["pinned"] == {"model": "c", "provider": "p", "native": "c"}
    first = planned(pinned_to("a"), "a", "c", conversation=TALK, continues=True)
    assert first.pinned == candidate(world_of(HOUSE), "a")
    assert "warm" not in first.reason


def test_a_plan_as_json_lists_sixty_four_and_counts_the_others() -> None:
    text = HOUSE + "".join(f'[models.m{n}]\nprovider = "p"\n' for n in range(200))
    document = planned(world_of(text), "strategy:cost").as_json()
    assert (len(document["dropped"]), document["dropped_more"]) == (MOST_TOLD, 200 + 4 - MOST - MOST_TOLD + 1)


@pytest.mark.parametrize("key", ["order", "only", "ignore"])
def test_a_provider_that_nobody_is_called_is_refused_with_near_names(key: str) -> None:
    wrong: dict[str, Any] = {key: ("p", "locl")}
    with pytest.raises(errors.InvalidRequest) as refused:
        planned(world_of(HOUSE), "a", preferences=Preferences(**wrong))
    assert "nearest: local" in refused.value.message
    assert refused.value.param == f"provider.{key}"


GUESSED = """
[aliases]
short = "p/gemma-2-2b"
[models.stated]
provider = "p"
native = "gemma-2-2b"
context = 1_000
"""


@each("name", ["p/gemma-2-2b", "p/gemma-2-2b;sort:price", "short", "stated", "stated:floor"])
def test_a_guess_is_no_reason_to_refuse_who_is_named_alone(name: str) -> None:
    world = world_of(HOUSE + GUESSED)
    assert len(chain(planned(world, name, needs={"tools", "vision"}))) == 1
    large = planned(world, name, tokens=10**9)
    assert len(chain(large)) == (0 if name.startswith("stated") else 1)
    assert chain(planned(world, name, "c", needs={"vision"})) == []


def test_who_is_named_alone_says_itself_how_long_an_answer_may_be() -> None:
    world = world_of(HOUSE)
    assert chain(planned(world, "a", max_tokens=5_000)) == ["a"]
    assert chain(planned(world, "a", "b", "home", max_tokens=1_500)) == ["b", "home"]


@pytest.mark.parametrize("key", ["only", "order"])
def test_a_provider_is_known_in_any_case(key: str) -> None:
    wanted: dict[str, Any] = {key: ("Q",)}
    assert chain(planned(world_of(HOUSE), "a", "b", preferences=Preferences(**wanted)))[0] == "b"


def test_a_partitioned_sort_leaves_the_entries_in_their_order() -> None:
    world = world_of(HOUSE + '[aliases]\ndear = ["b", "a"]\n')
    whole = planned(world, "dear", "c", sort="price")
    within = planned(world, "dear", "c", sort="price", partitioned=True)
    assert chain(whole) == ["c", "a", "b"]
    assert chain(within) == ["a", "b", "c"]
    assert within.reason.endswith("each entry sorted by price")
