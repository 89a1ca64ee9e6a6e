"""Where a conversation's cache is warm."""

from __future__ import annotations

from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.routing.affinity import STABLE_DIGITS, TRACKED, Affinity, Conversations
from proxy.routing.names import Candidate

WRITTEN = b"h\0scope\0be kind\0hello"
ONE, TWO = Candidate("m", "p", "m"), Candidate("n", "q", "n")


def test_a_pin_lasts_from_the_last_answer() -> None:
    pins = Affinity()
    pins.pin("c", ONE, 0.0)
    assert pins.pinned("c", 300.0, 300.0) == ONE
    pins.pin("c", TWO, 300.0)
    assert pins.pinned("c", 600.0, 300.0) == TWO
    assert pins.pinned("c", 600.1, 300.0) is None
    assert pins.pinned("d", 0.0, 300.0) is None


def test_a_pin_that_has_run_out_is_forgotten() -> None:
    pins = Affinity()
    pins.pin("c", ONE, 0.0)
    assert pins.pinned("c", 301.0, 300.0) is None
    assert len(pins) == 0


def test_memory_is_bounded_and_the_one_that_spoke_longest_ago_goes() -> None:
    pins = Affinity()
    for n in range(TRACKED):
        pins.pin(str(n), ONE, 0.0)
    pins.pin("0", ONE, 0.0)
    pins.pin("new", TWO, 0.0)
    assert len(pins) == TRACKED
    assert pins.pinned("0", 0.0, 1.0) == ONE
    assert pins.pinned("1", 0.0, 1.0) is None


def key(scope: str, session: str | None, system: str, first_turn: str) -> str | None:
    return Conversations(scope).key(session, system, first_turn)


def test_a_conversation_is_told_by_its_session_or_its_beginning() -> None:
    found = key("scope", None, "be kind", "hello")
    assert found is not None
    assert len(found) == 24
    assert found[:STABLE_DIGITS] == f"{crc32(WRITTEN):08x}"
    assert found == key("scope", "", "be kind", "hello")
    assert key("scope", "s1", "be kind", "hello") == key("scope", "s1", "other", "words")
    assert key("scope", None, "be kind", "") is None


texts = st.text(st.characters(exclude_categories=()), min_size=1, max_size=20)


@given(texts, texts, texts, texts)
def test_callers_and_kinds_of_keys_never_meet(scope: str, other: str, session: str, words: str) -> None:
    by_session = key(scope, session, "", words)
    by_words = key(scope, None, "", words)
    assert by_session != by_words
    if other != scope and "\0" not in scope + other:
        assert key(other, session, "", words) != by_session
        assert key(other, None, "", words) != by_words


@given(st.lists(st.tuples(st.none() | texts, st.sampled_from(["", "a", "b", "\0", "\ud800"]), st.text(max_size=2))))
def test_a_conversation_s_key_hangs_on_no_other(conversations: list[tuple[str | None, str, str]]) -> None:
    one_after_the_other = Conversations("scope")
    for it in conversations:
        assert one_after_the_other.key(*it) == key("scope", *it)


@pytest.mark.parametrize("words", ["\ud800", "\x00", "ü" * 5_000])
def test_any_words_make_a_key(words: str) -> None:
    assert key("", None, words, words) is not None
