"""What a project may use, and what it has from its parents."""

from __future__ import annotations

from decimal import Decimal

from each import each
from scenes import HOUSE, asks, chain, fates, planned, table_of, world_of

from proxy import errors
from proxy.routing.plan import resolve
from proxy.routing.table import Budget, Duration

LISTS = """
[aliases]
any = ["a", "b", "c"]
[auto]
chat = ["a", "b", "c", "home"]
[profiles.team]
candidates = ["a", "b", "c", "home"]
"""


# what stands in [projects.x] -> what is left of a, b, c and home
BOUNDS: dict[str, tuple[str, list[str]]] = {
    "nothing": ("", ["a", "b", "c", "home"]),
    "providers": ('providers = ["q", "local"]', ["b", "home"]),
    "no provider": ("providers = []", []),
    "models": ('models = ["a", "home"]', ["a", "home"]),
    "a pattern": ('models = ["ho*", "b"]', ["b", "home"]),
    "by provider and native name": ('models = ["p/a", "q/*"]', ["a", "b"]),
    "an alias stands for its models": ('models = ["any"]', ["a", "b", "c"]),
    "both": ('providers = ["p"]\nmodels = ["a", "b"]', ["a"]),
    "local only": ("local_only = true", ["home"]),
    "a provider disabled": ('disabled = ["p"]', ["b", "home"]),
    "a model disabled": ('disabled = ["a", "ho*"]', ["b", "c"]),
}


@each(("keys", "left"), BOUNDS.values(), ids=BOUNDS)
def test_a_project_has_a_hard_boundary(keys: str, left: list[str]) -> None:
    world = world_of(f"{HOUSE}{LISTS}[projects.x]\n{keys}\n[projects.other]\n")
    for wanted in (("a", "b", "c", "home"), ("profile:team",), ("team",), ("auto",)):
        plan = planned(world, *wanted, project="x", turns=("hi",))
        assert chain(plan) == left, wanted
        assert {step for step, _ in fates(plan).values()} <= {"policy"}
    assert chain(planned(world, "team", project="other")) == ["a", "b", "c", "home"]
    assert chain(planned(world, "team")) == ["a", "b", "c", "home"]


@each("name", ["b", "q/b", "q/anything", "q-x", "any", "strategy:quality"])
def test_no_way_of_asking_leads_past_the_boundary(name: str) -> None:
    world = world_of(f'{HOUSE}{LISTS}[projects.x]\nproviders = ["local"]')
    plan = planned(world, name, project="x", needs=())
    assert set(chain(plan)) <= {"home"}
    own_key = planned(world, name, project="x", byok=frozenset({"q", "p"}))
    assert set(chain(own_key)) <= {"home"}


NAMED = """
[models.own]
provider = "q"
native = "q-9"
[models.twin]
provider = "p"
native = "a"
"""
# what a project names -> by which other names the same model may be asked for
OTHER_NAMES: dict[str, tuple[str, tuple[str, ...]]] = {
    "an id, and the provider's own name": ("a", ("a", "p/a")),
    "an id with another native name": ("own", ("own", "q/q-9", "q-9")),
    "a name that a pattern covers": ("q-x", ("q-x", "q/q-x")),
    "a pattern": ("q-*", ("q-1", "q/q-1", "own", "q/q-9")),
    "the provider's own name": ("q/q-9", ("q/q-9", "q-9", "own")),
    "the native name of an id": ("q-9", ("q-9", "q/q-9", "own")),
}


@each(("entry", "names"), OTHER_NAMES.values(), ids=OTHER_NAMES)
def test_a_boundary_holds_for_every_name_of_a_model(entry: str, names: tuple[str, ...]) -> None:
    world = world_of(f'{HOUSE}{NAMED}[projects.without]\ndisabled = ["{entry}"]\n[projects.only]\nmodels = ["{entry}"]')
    for name in names:
        assert chain(planned(world, name, project="without")) == [], name
        assert chain(planned(world, name, project="only")) == [name]
    others = ["b", "q/b", "twin"]
    for name in others:
        assert chain(planned(world, name, project="without")) == [name]
        assert chain(planned(world, name, project="only")) == []


def test_what_a_boundary_empties_is_a_403_that_says_why() -> None:
    world = world_of(f'{HOUSE}[projects.x]\nproviders = ["q"]')
    plan = planned(world, "a", project="x")
    assert isinstance(plan.refusal, errors.NotAllowed)
    assert "the project x may not use the provider p" in plan.refusal.message


def test_a_budget_takes_nothing_whose_price_is_unknown() -> None:
    world = world_of(HOUSE + '[models.guess]\nprovider = "p"\n')
    assert chain(planned(world, "guess")) == ["guess"]
    plan = planned(world, "guess", "a", "home", priced_only=True)
    assert chain(plan) == ["a", "home"]  # what runs at home costs nothing, and that is known
    assert fates(plan)["guess"] == ("policy", "its price is unknown, and a budget counts what has a price")
    assert chain(planned(world, "guess", priced_only=True, byok=frozenset({"p"}))) == ["guess"]


# -- inheritance -------------------------------------------------------------------------------------------------

FAMILY = """
[profiles.p1]
candidates = ["a"]
[profiles.p2]
candidates = ["b"]
[projects.company]
providers = ["p", "q", "local"]
models = ["a", "b", "home"]
profile = "p1"
max_price = 0.5
timeouts = { idle = "5s", total = "1m" }
headers = { X-Nyuro-Sort = "price", X-Team = "all" }
budget = { limit = 100, period = "monthly" }
limits = { rpm = 10 }
[projects.team]
parent = "company"
disabled = ["q"]
timeouts = { idle = "9s" }
headers = { x-team = "team" }
[projects.small]
parent = "team"
models = ["b", "home", "c"]
profile = "p2"
max_price = 0
budget = { limit = 5 }
limits = {}
local_only = true
"""


def test_what_a_project_does_not_say_its_parents_do() -> None:
    projects = table_of(HOUSE + FAMILY).projects
    team, small = projects["team"], projects["small"]
    assert team.profile == "p1"
    assert team.max_price == Decimal("0.5")
    assert team.headers == {"x-nyuro-sort": "price", "x-team": "team"}
    assert team.budget == Budget(Decimal(100), "monthly")
    assert team.limits is not None
    assert team.limits.rpm == 10
    assert team.timeouts is not None
    assert (team.timeouts.idle, team.timeouts.total) == (Duration(9), Duration(60))
    assert small.profile == "p2"
    assert small.max_price == 0
    assert small.budget == Budget(Decimal(5), "none")
    assert small.limits is not None
    assert small.limits.rpm is None
    assert small.timeouts == team.timeouts


def test_a_project_can_only_narrow_what_its_parents_allow() -> None:
    world = world_of(HOUSE + FAMILY)
    for project, left in (("company", ["a", "b", "home"]), ("team", ["a", "home"]), ("small", ["home"])):
        assert chain(planned(world, "a", "b", "c", "home", project=project)) == left


def test_a_projects_timeouts_win() -> None:
    table = table_of(HOUSE + FAMILY)
    assert table.timeouts_for("p", "a", None, "team").idle == Duration(9)
    assert table.timeouts_for("p", "a", None, None).idle == table.timeouts.idle


def test_a_request_of_the_past_is_planned_within_its_project() -> None:
    world = world_of(f'{HOUSE}[projects.x]\nproviders = ["q"]')
    facts = asks("a", "b", project="x")
    assert [pick.candidate.model for pick in resolve(facts, world, lambda: 0.0, 0.0).chain] == ["b"]
