"""What the commands print for programs, and which words they refuse."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path

import pytest

from proxy.cli import main

ROUTES = Path(__file__).parents[1] / "routes.toml"


def test_models_as_json_are_numbers_and_lists(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--json", "--config", str(ROUTES)]) == 0
    models = {model["model"]: model for model in json.loads(capsys.readouterr().out)}
    small = models["meta/llama-3.1-8b"]
    assert (small["context"], small["input_usd_per_million"], small["capabilities"]) == (32_000, 0.045, ["json"])


@pytest.mark.parametrize("limit", ["0", "-1", "many"])
def test_a_limit_is_one_or_more(limit: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["decisions", "--limit", limit])
    assert ended.value.code == 2
    assert "one or more" in capsys.readouterr().err


def test_check_tells_every_problem_with_its_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = tmp_path / "bad.toml"
    bad.write_text('[server]\nnonsense = 1\n[aliases]\nx = "nobody"\n')
    assert main(["check", str(bad)]) == 1
    told = capsys.readouterr().err
    assert f"{bad}:2: server.nonsense: unknown key" in told
    assert f"{bad}:4: aliases.x: no model is called 'nobody'" in told
    assert "2 problems; nothing was changed" in told


@pytest.mark.parametrize("name", ["routes.toml", "local.toml"])
def test_a_shipped_table_is_good(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCAL_BASE_URL", "http://127.0.0.1:9")
    assert main(["check", str(ROUTES.parent / name)]) == 0


def test_explain_prints_the_class_and_what_decided_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "auto", "--prompt", "Fix this:\n```python\nx = [1,\n```", "--config", str(ROUTES)]) == 0
    told = capsys.readouterr().out
    assert "auto: detected code cues -> code list" in told
    assert "  class code, margin " in told
    assert "  ask:fix" in told
    assert (
        main(["explain", "auto", "--prompt", "Fix this:\n```python\nx = [1,\n```", "--json", "--config", str(ROUTES)])
        == 0
    )
    klass = json.loads(capsys.readouterr().out)["class"]
    assert (klass["label"], klass["fallback"]) == ("code", False)
    assert all(f"{weight:+8.2f}  {name}" in told for name, weight in klass["features"])


BOUND = """
[providers.near]
dialect = "openai-chat"
base_url = "http://near.test/v1"
api_key = "none"
[providers.far]
dialect = "openai-chat"
base_url = "http://far.test/v1"
api_key = "none"
[models.here]
provider = "near"
price = { input = 1, output = 1 }
[models.there]
provider = "far"
[aliases]
both = ["there", "here"]
[projects.close]
providers = ["near"]
max_price = 0.001
"""


def test_explain_goes_by_a_projects_bounds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    routes = tmp_path / "routes.toml"
    routes.write_text(BOUND)
    asked = ["explain", "both", "--config", str(routes), "--json", "--project"]
    assert main([*asked, "close", "--max-tokens", "10"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert [pick["model"] for pick in plan["candidates"]] == ["here"]
    assert [(gone["model"], gone["step"]) for gone in plan["dropped"]] == [("there", "policy")]
    assert main([*asked, "close", "--max-tokens", "100000"]) == 1
    steps = {gone["model"]: gone["step"] for gone in json.loads(capsys.readouterr().out)["dropped"]}
    assert steps == {"there": "policy", "here": "price"}
    assert main([*asked, "clsoe"]) == 2
    assert "no project is called clsoe; they are close" in capsys.readouterr().err


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"pointsman {version('pointsman')}\n"
