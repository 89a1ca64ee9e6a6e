"""The envelope: what is sealed opens in its place, with its key, unchanged, and in no other way."""

from __future__ import annotations

from typing import Any

import pytest
from attrs import evolve
from each import each
from hypothesis import given
from hypothesis import strategies as st

from proxy.accounts.vault import (
    LONGEST,
    NONCE,
    OwnKeys,
    StoredKey,
    Unsealed,
    fingerprint,
    last_four,
    read_key,
    seal,
    stored_json,
    unseal,
    unwrap,
    wrap,
)
from proxy.errors import InvalidRequest
from proxy.secret import Secret, key_bytes

MASTER, OTHER, DATA = b"m" * 32, b"o" * 32, b"d" * 32


def stored(key: str = "sk-canary-0001", project: str = "team", provider: str = "openai") -> StoredKey:
    return StoredKey(project, provider, 1, seal(key, DATA, b"n" * NONCE, project, provider), last_four(key), 0, 0)


@given(st.text(), st.text(), st.text(), st.binary(min_size=NONCE, max_size=NONCE))
def test_what_is_sealed_opens_again(key: str, project: str, provider: str, nonce: bytes) -> None:
    sealed = seal(key, DATA, nonce, project, provider)
    assert unseal(StoredKey(project, provider, 1, sealed, "", 0, 0), DATA) == Secret(key)
    assert len(key) < 8 or key.encode() not in sealed


def test_a_wrapped_data_key_opens_with_its_master_key_alone() -> None:
    wrapped = wrap(DATA, MASTER, b"n" * NONCE)
    assert DATA not in wrapped
    assert unwrap(wrapped, MASTER) == DATA
    with pytest.raises(Unsealed):
        unwrap(wrapped, OTHER)
    assert fingerprint(MASTER) != fingerprint(OTHER)
    assert MASTER.hex() not in fingerprint(MASTER)


@pytest.mark.parametrize(("project", "provider"), [("other", "openai"), ("team", "anthropic"), ("teamo", "penai")])
def test_a_row_that_is_moved_does_not_open(project: str, provider: str) -> None:
    with pytest.raises(Unsealed):
        unseal(evolve(stored(), project=project, provider=provider), DATA)


def test_no_changed_byte_opens() -> None:
    good = stored()
    for place in range(len(good.sealed)):
        raw = bytearray(good.sealed)
        raw[place] ^= 1
        with pytest.raises(Unsealed):
            unseal(evolve(good, sealed=bytes(raw)), DATA)
    for short in (b"", b"\x01", good.sealed[:13], good.sealed[:-1]):
        with pytest.raises(Unsealed):
            unseal(evolve(good, sealed=short), DATA)
    with pytest.raises(Unsealed):
        unwrap(good.sealed, DATA)  # a provider's key is no data key


def test_what_is_shown_tells_little() -> None:
    shown = stored_json(stored("sk-canary-key-of-length-0001"), opens=True)
    assert shown["masked"] == "…0001"
    assert "canary" not in str(shown) + repr(stored("sk-canary-key-of-length-0001"))
    assert stored_json(stored("short-key"), opens=False)["masked"] == "…"


GOOD = ["sk-12345678", " sk-12345678\n", "x" * LONGEST]
BAD: list[Any] = [
    None,
    [],
    {},
    {"key": 1},
    {"key": "short"},
    {"key": "x" * 5000},
    {"key": "two words here"},
    {"key": "ä" * 9},
    {"key": "sk-12345678\nx"},
    {"key": "sk-12345678", "more": 1},
]


@pytest.mark.parametrize("text", GOOD)
def test_a_key_is_read(text: str) -> None:
    assert read_key({"key": text}) == text.strip()


@each("document", BAD)
def test_what_is_no_key_is_refused_and_not_repeated(document: Any) -> None:
    with pytest.raises(InvalidRequest) as refused:
        read_key(document)
    assert "1234" not in refused.value.message
    assert "words" not in refused.value.message


MASTERS = {
    "base64": ("AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=", b"\1" * 32),
    "base64 without its padding": ("AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE", b"\1" * 32),
    "the alphabet for URLs": ("-_" * 21 + "8=", bytes.fromhex("fbffbf" * 10 + "fbff")),
    "hexadecimal": ("01" * 32, b"\1" * 32),
    "31 bytes": ("01" * 31, None),
    "33 bytes": ("AQ" * 22, None),
    "words": ("correct horse battery staple", None),
    "no hexadecimal": ("zz" * 32, None),
    "nothing": ("", None),
}


@each(("text", "raw"), MASTERS.values(), ids=MASTERS)
def test_a_master_key_has_32_bytes(text: str, raw: bytes | None) -> None:
    assert (key_bytes(text) or b"")[:30] == (raw or b"")[:30]
    assert (key_bytes(text) is None) == (raw is None)


def test_a_request_keeps_what_it_took() -> None:
    own = OwnKeys()
    own.replace({("team", "openai"): Secret("one")}, {"other": frozenset({"openai"})})
    taken = own.of("team")
    own.replace({("team", "openai"): Secret("two")}, {})
    assert taken == {"openai": Secret("one")}
    assert own.of("team") == {"openai": Secret("two")}
    assert own.of(None) == own.of("nobody") == {}
    assert own.locked("other") == own.locked(None) == frozenset()
    assert (len(own), own.secrets) == (1, [Secret("two")])
