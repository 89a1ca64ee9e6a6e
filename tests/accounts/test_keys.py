from __future__ import annotations

import hashlib
import string

import pytest
from attrs import evolve
from each import each
from hypothesis import given
from hypothesis import strategies as st

from proxy.accounts import keys
from proxy.accounts.keys import ENTROPY, SECRET, Key, KeyRing, digest_of, mint, presented, remint
from proxy.errors import Unauthenticated

NOW = 1_764_000_000_000
PUBLIC, WHOLE = mint("neu", bytes(range(ENTROPY)))
KEY = Key(PUBLIC, "ci", "neu", digest_of(WHOLE), WHOLE[-4:], NOW)


def other(entropy: int = 7) -> str:
    return mint("neu", bytes([entropy]) * ENTROPY)[1]


@given(st.binary(min_size=ENTROPY, max_size=ENTROPY))
def test_a_new_key_has_our_form_and_all_of_its_entropy(entropy: bytes) -> None:
    public, whole = mint("neu", entropy)
    prefix, environment, id, secret = whole.split("_")
    assert (prefix, environment, id) == ("neu", "live", public)
    assert len(id) == 12
    assert len(secret) == SECRET
    assert set(id + secret) <= set(string.ascii_letters + string.digits)
    assert keys.FORM.fullmatch(whole)
    value = 0
    for digit in secret:
        value = value * 62 + keys.DIGITS.index(digit)
    assert value == int.from_bytes(entropy[:32])


def test_nothing_of_a_key_but_its_hash_and_its_last_four_is_kept() -> None:
    assert KEY.digest == hashlib.sha256(WHOLE.encode()).digest()
    secret = WHOLE.rpartition("_")[2]
    assert secret not in repr(KEY)
    assert repr(KEY.digest) not in repr(KEY)
    assert KEY.last_four == secret[-4:]
    assert KEY.shown == f"neu_live_{PUBLIC}"


# -- which header counts -----------------------------------------------------------------------------------------

FOREIGN = "sk-ant-api03-" + "x" * 80
CHOICES: dict[str, tuple[list[str], list[str], str | None]] = {
    "bearer": ([f"Bearer {WHOLE}"], [], WHOLE),
    "bearer in any case": ([f"bEARER  {WHOLE} "], [], WHOLE),
    "x-api-key": ([], [WHOLE], WHOLE),
    "both, and the same": ([f"Bearer {WHOLE}"], [WHOLE], WHOLE),
    "one of them foreign": ([f"Bearer {FOREIGN}"], [WHOLE], WHOLE),
    "the other one foreign": ([f"Bearer {WHOLE}"], [FOREIGN], WHOLE),
    "both foreign": ([f"Bearer {FOREIGN}"], ["unused"], None),
    "none": ([], [], None),
    "another scheme": ([f"Basic {WHOLE}"], [], None),
    "without a scheme": ([WHOLE], [], None),
    "empty": (["Bearer"], [""], None),
    "a secret too short": ([f"Bearer {WHOLE[:-1]}"], [], None),
    "a secret too long": ([f"Bearer {WHOLE}0"], [], None),
    "with a NUL": ([f"Bearer {WHOLE[:-1]}\0"], [], None),
    "with a quote": ([f"Bearer {WHOLE[:-1]}'"], [], None),
    "an ideograph": ([f"Bearer {WHOLE[:-1]}模"], [], None),
    "half a surrogate pair": ([f"Bearer {WHOLE[:-1]}\udc80"], [], None),
    "a megabyte": ([f"Bearer {'a' * (1 << 20)}"], [], None),
}


@each(("authorizations", "api_keys", "found"), CHOICES.values(), ids=CHOICES)
def test_the_header_that_has_our_form_counts(authorizations: list[str], api_keys: list[str], found: str | None) -> None:
    assert presented(authorizations, api_keys) == found


@pytest.mark.parametrize(
    ("authorizations", "api_keys"),
    [([f"Bearer {WHOLE}"], [other()]), ([f"Bearer {WHOLE}", f"Bearer {other()}"], []), ([], [WHOLE, other()])],
)
def test_two_keys_of_ours_that_differ_are_refused(authorizations: list[str], api_keys: list[str]) -> None:
    with pytest.raises(Unauthenticated, match="different keys"):
        presented(authorizations, api_keys)


# -- the ring ----------------------------------------------------------------------------------------------------

WRONG: dict[str, tuple[Key, str, str]] = {
    "another key": (KEY, other(), "not one of this gateway's"),
    "the right id and a wrong secret": (KEY, remint("neu", PUBLIC, bytes(32)), "not one of this gateway's"),
    "another prefix": (KEY, "x" + WHOLE, "not one of this gateway's"),
    "no key at all": (KEY, "", "not one of this gateway's"),
    "a quote and SQL": (KEY, "' OR 1=1 --", "not one of this gateway's"),
    "revoked": (evolve(KEY, revoked_ms=NOW - 1), WHOLE, "revoked"),
    "expired": (evolve(KEY, expires_ms=NOW), WHOLE, "expired"),
    "revoked, with a wrong secret": (
        evolve(KEY, revoked_ms=NOW - 1), remint("neu", PUBLIC, bytes(32)), "not one of this gateway's",
    ),
}  # fmt: skip


@each(("key", "whole", "why"), WRONG.values(), ids=WRONG)
def test_a_key_that_opens_nothing_is_refused(key: Key, whole: str, why: str) -> None:
    with pytest.raises(Unauthenticated, match=why) as refused:
        KeyRing([key]).check(whole, NOW)
    assert WHOLE[-10:] not in refused.value.message


def test_a_good_key_is_found() -> None:
    ring = KeyRing([KEY, evolve(KEY, id="0" * 12)])
    assert ring.check(WHOLE, NOW) is KEY
    assert KeyRing([evolve(KEY, expires_ms=NOW + 1)]).check(WHOLE, NOW).id == PUBLIC


def test_a_rotated_key_opens_with_both_secrets_until_its_grace_is_over() -> None:
    fresh = remint("neu", PUBLIC, bytes([9]) * 32)
    ring = KeyRing([KEY.rotated(fresh, NOW + 1000)])
    assert ring.check(fresh, NOW).last_four == fresh[-4:]
    assert ring.check(WHOLE, NOW + 999).id == PUBLIC
    with pytest.raises(Unauthenticated):
        ring.check(WHOLE, NOW + 1000)
    assert ring.check(fresh, NOW + 1_000_000).id == PUBLIC


def test_of_several_former_secrets_only_the_last_opens() -> None:
    second, third = (remint("neu", PUBLIC, bytes([n]) * 32) for n in (2, 3))
    ring = KeyRing([KEY.rotated(second, NOW + 1000).rotated(third, NOW + 1000)])
    assert ring.check(second, NOW).id == PUBLIC
    with pytest.raises(Unauthenticated):
        ring.check(WHOLE, NOW)


def test_a_ring_that_had_keys_never_becomes_an_open_gate() -> None:
    ring = KeyRing([KEY])
    ring.replace([])  # the file was lost
    assert ring.check(WHOLE, NOW) is KEY
    ring.replace([evolve(KEY, revoked_ms=NOW)])
    with pytest.raises(Unauthenticated):
        ring.check(WHOLE, NOW)


def test_every_wrong_key_costs_a_hash_and_a_comparison(monkeypatch: pytest.MonkeyPatch) -> None:
    """So the time tells nobody whether an id is known, nor how much of a secret is right."""
    compared: list[tuple[int, int]] = []

    def compare(a: bytes, b: bytes) -> bool:
        compared.append((len(a), len(b)))
        return a == b

    monkeypatch.setattr(keys, "compare_digest", compare)
    for whole in (other(), remint("neu", PUBLIC, bytes(32)), ""):
        with pytest.raises(Unauthenticated):
            KeyRing([KEY]).check(whole, NOW)
    assert compared == [(32, 32)] * 3
