"""Request ids are UUIDv7 in hex: https://www.rfc-editor.org/rfc/rfc9562#name-uuid-version-7"""

from __future__ import annotations

import os
import time
from uuid import RFC_4122, UUID

from proxy.server.identity import AHEAD, request_id

MANY = 3 * AHEAD


def test_an_id_is_a_uuid_of_the_seventh_version_and_of_its_time() -> None:
    before = time.time_ns() // 1_000_000
    ids = [request_id() for _ in range(MANY)]
    after = time.time_ns() // 1_000_000
    uuids = [UUID(id.removeprefix("req_")) for id in ids]
    assert all(len(id) == 36 and id.startswith("req_") for id in ids)
    assert {(it.version, it.variant) for it in uuids} == {(7, RFC_4122)}
    assert all(before <= it.int >> 80 <= after for it in uuids)
    assert len(set(ids)) == MANY
    assert len({it.int & (1 << 62) - 1 for it in uuids}) == MANY
    assert len({it.bytes[8] >> 4 for it in uuids}) == 4  # each variant's two bits are free


def test_a_forked_child_has_ids_of_its_own() -> None:
    request_id()
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.write(writing, " ".join(request_id() for _ in range(MANY)).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as told:
        theirs = told.read().split()
    os.waitpid(child, 0)
    ends = [{id[16:] for id in ids} for ids in (theirs, [request_id() for _ in range(MANY)])]
    assert len(theirs) == MANY
    assert ends[0].isdisjoint(ends[1])
