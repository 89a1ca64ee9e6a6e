"""What the commands print for programs, and which words they refuse."""

from __future__ import annotations

import json
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
