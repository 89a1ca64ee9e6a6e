"""Every secret that a test hands to a gateway sings: it begins with `canary-`, or is a key of the gateway's own. After
each test of the suite, whatever it was about, nothing that a gateway wrote or said may hold one: no file of its state,
no line of its log, no answer of the admin listener or of the data listener but the one that makes a key.

`conftest` looks into what was written, `gateway` into what was said.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

# Credentials of providers and tokens of hooks by their mark; virtual keys by their form.
SECRET = re.compile(
    rb"canary-(?!answer|bytes|detail|prompt)[A-Za-z0-9-]+|[A-Za-z0-9]{1,32}_live_[A-Za-z0-9]{12}_[A-Za-z0-9]{43}"
)
MARKS = (b"canary-", b"_live_")  # one stands in every secret, and to look for them costs a hundredth of the pattern
WRITTEN_BY_TESTS = frozenset({".toml", ".secret", ".json", ".yaml", ".sh", ".py", ".pem", ".gguf"})


def leaks(data: bytes) -> list[str]:
    """The secrets in it, cut so that a failing test does not tell them to its own log either."""
    if not any(mark in data for mark in MARKS):
        return []
    return sorted({found.decode()[:24] + "…" for found in SECRET.findall(data)})


def leaking(directory: Path) -> Iterator[tuple[str, list[str]]]:
    """Files below a directory with a secret in them: of the ledger, of logs, of whatever else a gateway keeps."""
    for file in sorted(directory.rglob("*")):
        kept = file.is_file() and not file.is_symlink() and file.suffix not in WRITTEN_BY_TESTS
        if kept and (found := leaks(file.read_bytes())):
            yield file.name, found
