"""Forms: one field found and replaced, no other byte touched."""

import pytest
from each import each
from hypothesis import given
from hypothesis import strategies as st

from proxy.wire import multipart

BOUNDARY = b"X-boundary-1"


def form(*parts: tuple[str, bytes]) -> bytes:
    pieces = [
        b'--%b\r\nContent-Disposition: form-data; name="%b"\r\n\r\n%b\r\n' % (BOUNDARY, name.encode(), value)
        for name, value in parts
    ]
    return b"".join(pieces) + b"--%b--\r\n" % BOUNDARY


TYPES = {
    "bare": ("multipart/form-data; boundary=abc", b"abc"),
    "quoted": ('multipart/form-data; charset=utf-8; boundary="a b:c"', b"a b:c"),
    "in capitals": ("Multipart/Form-Data; BOUNDARY=abc", b"abc"),
    "absent": ("multipart/form-data", None),
    "a type of that name": ("boundary=abc", None),
}


@each(("content_type", "boundary"), TYPES.values(), ids=TYPES)
def test_the_boundary_is_read_from_the_content_type(content_type: str, boundary: bytes | None) -> None:
    assert multipart.boundary_of(content_type) == boundary


def test_a_field_is_found_and_replaced_and_nothing_else_changes() -> None:
    audio = bytes(range(256)) + b"\r\n--X-bound" + b"\r\n\r\n"
    body = form(("file", audio), ("model", b"whisper"), ("prompt", b'name="model"'))
    found = multipart.fields(body, BOUNDARY)
    assert [field.name for field in found] == ["file", "model", "prompt"]
    assert multipart.value_of(body, found, "model") == "whisper"
    assert multipart.value_of(body, found, "language") is None
    expected = form(("file", audio), ("model", b"whisper-1"), ("prompt", b'name="model"'))
    assert multipart.replace(body, found, "model", "whisper-1") == expected


def test_a_preamble_is_passed_over() -> None:
    body = b"preamble\r\n" + form(("model", b"m"))
    assert multipart.value_of(body, multipart.fields(body, BOUNDARY), "model") == "m"


BROKEN = {
    "empty": b"",
    "another boundary": form(("model", b"m")).replace(BOUNDARY, b"Y"),
    "no end": form(("model", b"m"))[: -len(BOUNDARY) - 8],
    "a head without an end": b"--" + BOUNDARY + b"\r\nContent-Disposition: form-data",
    "too many parts": form(*[("a", b"")] * 65),
}


@each("body", BROKEN.values(), ids=BROKEN)
def test_what_is_not_cut_as_it_says_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"form|boundary"):
        multipart.fields(body, BOUNDARY)


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_else(noise: bytes) -> None:
    for body in (noise, b"--" + BOUNDARY + noise, form(("model", noise))):
        try:
            multipart.fields(body, BOUNDARY)
        except ValueError:
            continue


@given(st.lists(st.tuples(st.sampled_from(["model", "file", "n"]), st.binary(max_size=40)), max_size=6))
def test_values_come_back_as_they_went_in(parts: list[tuple[str, bytes]]) -> None:
    parts = [(name, value.replace(BOUNDARY, b"")) for name, value in parts]
    body = form(*parts)
    found = multipart.fields(body, BOUNDARY) if parts else []
    assert [(f.name, body[f.start : f.end]) for f in found] == parts
