"""The check that no secret is in what a gateway wrote or said finds one where there is one."""

from __future__ import annotations

from pathlib import Path

import pytest
from canaries import leaking, leaks
from gateway import Answer
from multidict import CIMultiDict, CIMultiDictProxy

SINGING = {
    "a provider's key": b"Bearer canary-house-key-0001",
    "in the middle of bytes": b"\x00\xffcanary-own-key-0001\x00",
    "a key of the gateway's": b"neu_live_" + b"a" * 12 + b"_" + b"b" * 43,
}
SILENT = {
    "what may be read of a key": b"neu_live_" + b"a" * 12,
    "a masked one": b"\xe2\x80\xa60001",
    "an answer": b"canary-answer",
}


@pytest.mark.parametrize("data", SINGING.values(), ids=SINGING)
def test_a_secret_is_found_wherever_it_stands(data: bytes, tmp_path: Path) -> None:
    assert leaks(data)
    file = tmp_path / "state" / "ledger.sqlite3-wal"
    file.parent.mkdir()
    file.write_bytes(b"x" * 5000 + data)
    assert dict(leaking(tmp_path)).keys() == {file.name}
    file.unlink()
    headers = CIMultiDictProxy(CIMultiDict({"X": data.decode("latin-1")}))
    with pytest.raises(AssertionError, match="a secret stands in an answer"):
        Answer(200, headers, b"")
    with pytest.raises(AssertionError, match="a secret stands in an answer"):
        Answer(200, CIMultiDictProxy(CIMultiDict()), data)


@pytest.mark.parametrize("data", SILENT.values(), ids=SILENT)
def test_what_is_no_secret_is_none(data: bytes) -> None:
    assert not leaks(data)
