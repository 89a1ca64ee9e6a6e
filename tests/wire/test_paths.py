"""Names of models in a path."""

from __future__ import annotations

from urllib.parse import unquote, urlsplit

import pytest
from each import each
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from proxy.errors import Unsupported
from proxy.wire.paths import in_path

NAMES = {
    "@cf/meta/llama-3.1-8b-instruct": "@cf/meta/llama-3.1-8b-instruct",
    "gemini-2.5-flash": "gemini-2.5-flash",
    "qwen2.5-coder:7b": "qwen2.5-coder:7b",
    "tunedModels/of-mine": "tunedModels/of-mine",
    "a b?c#d&e=f;g": "a%20b%3Fc%23d%26e%3Df%3Bg",
    "%2e%2e/x": "%252e%252e/x",
    "x HTTP/1.1\r\nEvil: 1": "x%20HTTP/1.1%0D%0AEvil:%201",
    "...": "...",
    "..a/b..": "..a/b..",
}


@each(("name", "path"), NAMES.items(), ids=NAMES)
def test_a_name_is_encoded_and_reads_as_it_was(name: str, path: str) -> None:
    assert in_path(name) == path
    assert unquote(path) == name


@each("name", ["", "/", "..", ".", "../x", "x/..", "x/../../y", "x//y", "/x", "x/", "x\\..\\y", "x/./y"])
def test_a_name_that_leads_elsewhere_is_refused(name: str) -> None:
    with pytest.raises(Unsupported, match="leads out"):
        in_path(name)


@given(st.text(min_size=1))
def test_no_name_leaves_its_place(name: str) -> None:
    try:
        path = in_path(name)
    except Unsupported:
        return
    url = f"https://provider.example/run/{path}:method"
    assert URL(url, encoded=True).raw_path == urlsplit(url).path == f"/run/{path}:method"
    assert unquote(URL(url).raw_path) == f"/run/{name}:method"  # as one who normalizes reads it
    assert not URL(url).query_string
    assert not URL(url).fragment
