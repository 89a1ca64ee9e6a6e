"""What a table says by itself: layers of timeouts, secrets, bands, loopback."""

from __future__ import annotations

from decimal import Decimal

import pytest
from attrs import asdict
from each import each
from scenes import EVERY, HOUSE, KEYS, problems, shipped, table_of

from proxy.routing.table import OFF, Band, Duration, TimeoutOverrides, Timeouts, is_loopback
from proxy.secret import Secret

LAYERS = """
[timeouts]
connect = "1s"
idle = "1m"
[providers.p]
dialect = "openai-chat"
base_url = "http://p.test/v1"
api_key = "none"
timeouts = { connect = "2s", answer = "2m" }
[models.m]
provider = "p"
timeouts = { answer = "3m", total = "off" }
[models.plain]
provider = "p"
[profiles.patient]
candidates = ["m"]
timeouts = { answer = "4m" }
"""


def test_the_nearer_layer_of_timeouts_wins() -> None:
    table = table_of(LAYERS)
    seen = table.timeouts_for("p", "m", "patient")
    assert asdict(seen) == asdict(table.timeouts) | {"connect": 2, "idle": 60, "answer": 240, "total": OFF}
    assert table.timeouts_for("p", "m", None).answer == Duration(180)
    assert table.timeouts_for("p", "plain", None).answer == Duration(120)
    assert table.timeouts_for("x", "y", "z") == table.timeouts
    assert table.timeouts.first_event == Timeouts().first_event


def test_layers_that_say_nothing_change_nothing() -> None:
    plain = Timeouts()
    assert plain.overridden(None, TimeoutOverrides(), None) is not None
    assert plain.overridden(None, TimeoutOverrides()) == plain
    assert plain.overridden(TimeoutOverrides(idle=Duration(1)), TimeoutOverrides(connect=Duration(2))).idle == Duration(
        1
    )


def test_every_secret_of_the_file_is_known_to_the_scrubber_and_shown_by_nobody() -> None:
    text = HOUSE.replace(
        'api_key = "${P_KEY}"',
        'api_keys = ["${P_KEY}", "a-literal-key"]\n'
        'proxy = "http://user:hidden@egress.test:3128"\n'
        'headers = { X-Org = "${ORG}" }',
    )
    table = table_of(text, {**KEYS, "ORG": "org-0123456789"})
    assert set(table.secrets) == {
        Secret("p-0123456789"),
        Secret("a-literal-key"),
        Secret("org-0123456789"),
        Secret("http://user:hidden@egress.test:3128"),
        Secret("q-0123456789"),
    }
    for word in ("p-0123456789", "a-literal-key", "hidden", "org-0123456789"):
        assert word not in repr(table)
    assert table.warnings == ("providers.p.api_keys[1]: a literal key in the file; ${VARIABLE} or file: keeps it out",)


@each(
    ("band", "value", "holds"),
    [
        (Band(), 5, True),
        (Band(min=Decimal(5)), 5, True),
        (Band(min=Decimal(5)), 4, False),
        (Band(max=Decimal("0.5")), 0.5, True),
        (Band(max=Decimal("0.5")), Decimal("0.51"), False),
        (Band(Decimal(1), Decimal(2)), 1.5, True),
    ],
)
def test_a_band_holds_its_ends(band: Band, value: float | Decimal, holds: bool) -> None:
    assert band.holds(value) is holds


@each(
    ("host", "local"),
    [
        ("localhost", True),
        ("LOCALHOST.", True),
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("[::1]", True),
        ("::1", True),
        ("0.0.0.0", False),
        ("10.0.0.1", False),
        ("localhost.example.com", False),
        ("127.0.0.1.example.com", False),
        ("", False),
        ("::", False),
    ],
)
def test_loopback_is_what_only_this_machine_reaches(host: str, local: bool) -> None:
    assert is_loopback(host) is local


@pytest.mark.parametrize(
    ("env", "first"),
    [({}, True), ({"CLOUDFLARE_API_TOKEN": "x"}, True), ({"OPENAI_API_KEY": "x"}, False), (EVERY, False)],
)
def test_a_first_run_ends_with_the_first_provider_that_is_ready(env: dict[str, str], first: bool) -> None:
    assert shipped(env).table.first_run is first


def test_the_revision_is_the_file_s_digest() -> None:
    assert table_of(HOUSE).revision == table_of(HOUSE).revision != table_of(HOUSE + "\n").revision
    assert table_of(HOUSE).revision.startswith("sha256:")


def test_a_disabled_provider_is_not_configured() -> None:
    table = table_of(HOUSE.replace("[providers.q]", "[providers.q]\nenabled = false"))
    assert {name: it.configured for name, it in table.providers.items()} == {
        "p": True,
        "q": False,
        "local": True,
        "bare": False,
    }
    assert problems(HOUSE) == ()
