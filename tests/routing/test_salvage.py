"""One reading of a broken table tells all that is wrong with it, and blames nothing for its neighbour's fault."""

from __future__ import annotations

import pytest

from proxy.dialects import UPSTREAMS
from proxy.routing.loading import load
from proxy.routing.problems import TableRejected

BROKEN = """
[server]
header_prefix = "bad prefix"
nonsense = 1
[providers.a]
dialect = "openai-chat"
base_url = "ftp://x"
api_key = "none"
bogus = 2
[providers.b]
dialect = 5
base_url = "http://x/v1"
api_key = "none"
[models.m]
provider = "b"
context = "many"
[models."o.1"]
provider = 7
[models.n]
provider = "nobody"
[aliases]
q = "nothing-here"
r = "m"
s = "o.1"
[auto]
chat = ["m", "zzz"]
"""


def problems(text: str) -> dict[str, str]:
    with pytest.raises(TableRejected) as caught:
        load(text.encode(), env={}, read_file=str, dialects=UPSTREAMS.keys())
    return {problem.path: problem.message for problem in caught.value.problems}


def test_structure_and_meaning_are_judged_in_one_reading() -> None:
    assert set(problems(BROKEN)) == {
        "server.header_prefix",
        "server.nonsense",
        "providers.a.base_url",
        "providers.a.bogus",
        "providers.b.dialect",
        "models.m.context",
        "models.o.1.provider",
        "models.n.provider",
        "aliases.q",
        "auto.chat",
    }


def test_a_whole_section_of_a_wrong_type_leaves_the_rest_to_be_judged() -> None:
    assert set(problems('providers = 5\n[server]\nlisten = ["nowhere"]\n')) == {"providers", "server.listen"}


def test_several_faults_of_an_entry_take_neither_its_others_nor_its_neighbours_along() -> None:
    found = problems("""
        [models.x]
        provider = "nobody"
        context = -3
        price = { input = -1, output = "free" }
        capabilities = ["telepathy"]
        [models.xy]
        provider = "nobody"
    """)
    assert set(found) == {
        "models.x.provider",
        "models.x.context",
        "models.x.price.input",
        "models.x.price.output",
        "models.x.capabilities",
        "models.xy.provider",
    }


def test_a_rule_keeps_its_number_where_those_before_it_are_broken() -> None:
    found = problems("""
        [[rules]]
        nonsense = 1
        [[rules]]
        name = "second"
        use = 5
        [[rules]]
        name = "third"
        use = ["auto"]
        needs = ["telepathy"]
    """)
    assert set(found) == {"rules[0].name", "rules[0].use", "rules[0].nonsense", "rules[1].use", "rules[2].needs"}


def test_a_list_that_only_breaks_have_emptied_is_not_told_to_be_empty() -> None:
    found = problems("""
        [profiles.p]
        candidates = [3, { model = "nope", weight = -1 }]
        [aliases]
        a = "profile:p"
    """)
    assert set(found) == {"profiles.p.candidates[0]", "profiles.p.candidates[1]"}


def test_names_out_of_a_section_that_cannot_be_read_are_not_said_to_be_unknown() -> None:
    found = problems("""
        models = "none"
        [aliases]
        a = "anything"
        [auto]
        cooking = ["a"]
    """)
    assert set(found) == {"models", "auto.cooking"}


def test_a_byte_order_mark_is_skipped_and_moves_no_line() -> None:
    with pytest.raises(TableRejected) as caught:
        load(b"\xef\xbb\xbf[server]\nadmin = 5\n", env={}, read_file=str, dialects=UPSTREAMS.keys())
    assert [(it.path, it.line) for it in caught.value.problems] == [("server.admin", 2)]
