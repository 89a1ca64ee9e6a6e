"""Casts: a body with holes, into which other values are poured."""

from __future__ import annotations

import pytest

from proxy.wire.cast import cast_of, form_of, poured

BODY = b'{"a":"<one>","b":[<two>],"c":0}'
CASTS: dict[str, tuple[list[bytes], list[bytes], bytes]] = {
    "one hole": ([b"<one>"], [b"x"], b'{"a":"x","b":[<two>],"c":0}'),
    "two holes": ([b"<one>", b"<two>"], [b"x", b"y"], b'{"a":"x","b":[y],"c":0}'),
    "in another order than they stand": ([b"<two>", b"<one>"], [b"y", b"x"], b'{"a":"x","b":[y],"c":0}'),
    "at both ends": ([b'{"a', b"0}"], [b"<", b">"], b'<":"<one>","b":[<two>],"c":>'),
}


@pytest.mark.parametrize(("marks", "values", "body"), CASTS.values(), ids=CASTS)
def test_values_stand_where_the_marks_stood(marks: list[bytes], values: list[bytes], body: bytes) -> None:
    cast = cast_of(BODY, marks)
    assert cast is not None
    assert poured(cast, values) == body


@pytest.mark.parametrize("text", [b"%", b"100 %b", b"%%", b"%(a)s", b"%d%"])
def test_what_looks_like_a_hole_is_none(text: bytes) -> None:
    cast = cast_of(text + b"<one>" + text, [b"<one>"])
    assert cast is not None
    assert poured(cast, [text]) == text * 3


NONE = {
    "a mark that is missing": [b"<three>"],
    "a mark that stands twice": [b"<"],
    "a mark within another": [b"<one>", b"one"],
    "marks that overlap": [b"<one>", b'>","b'],
}


@pytest.mark.parametrize("marks", NONE.values(), ids=NONE)
def test_there_is_no_cast_with(marks: list[bytes]) -> None:
    assert cast_of(BODY, marks) is None


FORMS: dict[str, tuple[list[bytes], list[bytes], bytes]] = {
    "a mark that stands twice": ([b"<"], [b"["], b'{"a":"[one>","b":[[two>],"c":0}'),
    "marks of which one is within another": ([b"one", b"<one>"], [b"x", b"y"], b'{"a":"y","b":[<two>],"c":0}'),
    "one that stands nowhere": ([b"<three>", b"<two>"], [b"x", b"y"], b'{"a":"<one>","b":[y],"c":0}'),
    "one that is nothing": ([b"", b"<two>"], [b"x", b"y"], b'{"a":"<one>","b":[y],"c":0}'),
}


@pytest.mark.parametrize(("marks", "values", "body"), FORMS.values(), ids=FORMS)
def test_a_form_has_a_hole_wherever_a_mark_stands(marks: list[bytes], values: list[bytes], body: bytes) -> None:
    form = form_of(BODY, marks)
    assert not isinstance(form, bytes)
    assert poured(form, values) == body


def test_a_form_without_holes_is_the_body() -> None:
    assert form_of(BODY, [b"<three>", b""]) == BODY
