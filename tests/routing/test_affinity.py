"""Where a conversation's cache is warm."""

from __future__ import annotations

from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.routing.affinity import STABLE_DIGITS, TRACKED, Affinity, conversation_key
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


def test_a_conversation_is_told_by_its_session_or_its_beginning() -> None:
    key = conversation_key("scope", None, "be kind", "hello")
    assert key is not None
    assert len(key) == 24
    assert key[:STABLE_DIGITS] == f"{crc32(WRITTEN):08x}"
    assert key == conversation_key("scope", "", "be kind", "hello")
    assert conversation_key("scope", "s1", "be kind", "hello") == conversation_key("scope", "s1", "other", "words")
    assert conversation_key("scope", None, "be kind", "") is None


texts = st.text(st.characters(exclude_categories=()), min_size=1, max_size=20)


@given(texts, texts, texts, texts)
def test_callers_and_kinds_of_keys_never_meet(scope: str, other: str, session: str, words: str) -> None:
    by_session = conversation_key(scope, session, "", words)
    by_words = conversation_key(scope, None, "", words)
    assert by_session != by_words
    if other != scope and "\0" not in scope + other:
        assert conversation_key(other, session, "", words) != by_session
        assert conversation_key(other, None, "", words) != by_words


@pytest.mark.parametrize("words", ["\ud800", "\x00", "ü" * 5_000])
def test_any_words_make_a_key(words: str) -> None:
    assert conversation_key("", None, words, words) is not None
