"""One reading of a broken table tells all that is wrong with it, and blames nothing for its neighbour's fault."""

from __future__ import annotations

import pytest

from proxy.dialects import UPSTREAMS
from proxy.routing.loading import TableRejected, load

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
