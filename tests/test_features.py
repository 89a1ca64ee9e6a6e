"""Each feature in the words of every dialect, side by side in tests/data/features: what stands there is what is sent.

Where a file is out of date or missing, `make goldens` writes it; read the diff before you commit it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from each import each
from features import FEATURES, encoding_of, features, pretty, target_of

from proxy.dialects import DIALECTS, UPSTREAMS, Dialect
from proxy.server.endpoints import BY_NAME

REQUESTS = features()
each_feature = each("feature", REQUESTS)


def written(feature: str, dialect: str) -> dict[str, Any]:
    file = FEATURES / feature / f"{dialect}.json"
    assert file.exists(), f"{feature} is not there in the words of {dialect}: run `make goldens`"
    found: dict[str, Any] = json.loads(file.read_text())
    return found


@each("dialect", UPSTREAMS)
@each_feature
def test_a_feature_in_the_words_of(feature: str, dialect: str) -> None:
    assert encoding_of(REQUESTS[feature], UPSTREAMS[dialect]) == written(feature, dialect)


@each_feature
def test_beside_a_request_stands_one_file_per_dialect_and_no_other(feature: str) -> None:
    there = {file.name for file in (FEATURES / feature).iterdir()}
    assert there == {"request.json", *(f"{name}.json" for name in UPSTREAMS)}


@each("file", sorted(FEATURES.glob("*/*.json")), ids=lambda file: f"{file.parent.name}/{file.name}")
def test_a_file_is_written_for_reading(file: Path) -> None:
    assert file.read_text() == pretty(json.loads(file.read_text())) + "\n"


@each_feature
def test_a_request_is_understood_by_some_provider_that_speaks_another_dialect_or_is_refused_by_all(
    feature: str,
) -> None:
    """A feature that nobody else can be told is refused, and never half said."""
    spoken = DIALECTS[BY_NAME[REQUESTS[feature]["surface"]].dialect]
    others = [name for name, dialect in UPSTREAMS.items() if dialect.speaks != spoken.name]
    found = [written(feature, name) for name in others]
    assert all(("body" in one) != ("refused" in one) for one in found)
    assert all(one["because"].strip("`").startswith(one["refused"]) for one in found if "refused" in one)


@each("dialect", DIALECTS)
@each_feature
def test_what_is_sent_can_be_read_again_and_says_the_same(feature: str, dialect: str) -> None:
    """By the dialects that clients speak too: a gateway behind this one sends on what this one sends."""
    spoken = DIALECTS[dialect]
    said = written(feature, dialect)
    if "refused" in said or said["body"] == {**said["body"], **REQUESTS[feature]["body"]}:
        return
    heard = spoken.codec().decode_request(said["body"])
    again = spoken.codec().encode_request(heard, target_of(dialect))
    assert spoken.codec().decode_request(json.loads(json.dumps(again.body))) == heard
    assert again.dropped == ()


def test_the_features_are_told_on_every_surface() -> None:
    assert {request["surface"] for request in REQUESTS.values()} == {"chat", "messages", "responses"}
    assert all(isinstance(DIALECTS[BY_NAME[request["surface"]].dialect], Dialect) for request in REQUESTS.values())
