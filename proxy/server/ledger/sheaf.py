"""Briefs that are alike, as those of most batches are, as the values of few statements.

Where rows trickle, the processor has forgotten all of this between two batches, so what counts is how little of it
there is: one pass, and nothing made for each but its values. What they come to is what `building` makes of each.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from proxy.routing.facts import RECORDED_DIGITS
from proxy.server.ledger.building import ORDINARY, SOLE, Alike, Known
from proxy.server.ledger.records import Brief, Decision
from proxy.server.ledger.rows import BLOCK_BITS, NAME, Value


class Sheaf(NamedTuple):
    """Ordinary rows without attempts of their own. Their ids are the file's to give. A number may be more than a column
    holds."""

    alike: Alike
    values: list[Value]  # what they share, and behind it each one's own
    requests: list[str]
    blocks: list[int]  # of time that they lie in
    last_ms: int
    charged_nanos: int


_sheaf = tuple.__new__  # as in `building`


def together(briefs: Iterable[Decision | Brief]) -> Sheaf | None:
    """None where one of them is not as the others, has to be learnt, or holds what needs a look."""
    kind = alike = None
    values: list[Value] = []
    blocks = []
    since_ms = until_ms = last_ms = charged = 0
    block = -1
    for b in briefs:
        if b.__class__ is not Brief:
            return None
        its, id, at_ms, tokens, conversation, warm, u, cost, pays, ttfb, took, size, said, started = b
        if its is not kind:
            known: Known | None = its.rows and its.rows[0]
            if known is None or known.attempts is not None or alike not in (None, known.alike):
                return None
            if alike is None:
                alike, since_ms, until_ms = known.alike, known.since_ms, known.until_ms
                values += alike.ordinary.shared
            kind = its
        if (
            started or warm or conversation is None or not since_ms <= at_ms < until_ms
            or not (said is None or (said.isascii() and len(said) <= NAME))
            or u.cache_write_5m is not None or u.cache_write_1h is not None
            or u.audio_input is not None or u.audio_output is not None
        ):  # fmt: skip
            return None
        own = f'[{tokens},"{conversation[:RECORDED_DIGITS]}",false]'
        values += (
            id, at_ms, u.input, u.cache_read, u.output, u.reasoning, cost, pays, ttfb, took, 0, size, own, said
        )  # fmt: skip
        charged += pays
        if at_ms > last_ms:
            last_ms = at_ms
        if at_ms >> BLOCK_BITS != block:
            block = at_ms >> BLOCK_BITS
            blocks.append(block)
    if alike is None:
        return None
    requests: list[Any] = values[len(alike.ordinary.shared) :: len(ORDINARY) + len(SOLE)]
    return _sheaf(Sheaf, (alike, values, requests, blocks, last_ms, charged))
