"""Running a recipe: what is made, what is kept, what is refused, and the exit code of a verdict."""

import json
from dataclasses import asdict
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from dmedge.artifact import load_artifact, new_artifact
from dmedge.cli.main import cli
from dmedge.errors import ArtifactError, ExportError
from dmedge.flow.recipe import Recipe, build_recipe
from dmedge.flow.run import run_recipe
from dmedge.flow.table import draw_table, rows_json, table_rows
from tests.workshop import Workshop

STAGES: list[dict[str, Any]] = [
    {"kind": "train", "steps": 5},
    {"kind": "compress", "int8": True},
    {"kind": "export", "target": "android"},
    {"kind": "verify"},
    {"kind": "bench"},
    {"kind": "export", "target": "linux-x86_64"},
    {"kind": "verify"},
]
NAMES = ["baseline", "int8", "android", "android-verify", "android-bench", "linux-x86_64", "linux-x86_64-verify"]


@pytest.fixture
def workshop(monkeypatch: pytest.MonkeyPatch) -> Workshop:
    return Workshop(monkeypatch)


def recipe(*, steps: int = 5, **keys: Any) -> Recipe:
    return build_recipe({"name": "my", "stage": [{**STAGES[0], "steps": steps}, *STAGES[1:]], **keys}, where="my.toml")


def test_each_stage_reads_the_nearest_of_what_it_needs(workshop: Workshop, tmp_path: Path) -> None:
    outcomes = run_recipe(recipe(), tmp_path / "run")
    assert workshop.made == NAMES == [outcome.artifact.name for outcome in outcomes]
    assert workshop.read == {
        "baseline": [],
        "int8": ["baseline"],
        "android": ["int8"],
        "android-verify": ["android", "baseline"],
        "android-bench": ["android", "baseline"],
        "linux-x86_64": ["int8"],
        "linux-x86_64-verify": ["linux-x86_64", "baseline"],
    }
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == sorted(NAMES)


def test_a_second_run_makes_nothing_and_says_so(
    workshop: Workshop, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = run_recipe(recipe(), tmp_path)
    workshop.made.clear()
    caplog.set_level("INFO", logger="dmedge")
    caplog.clear()
    second = run_recipe(recipe(), tmp_path)
    assert workshop.made == []
    assert [outcome.artifact.digest for outcome in second] == [outcome.artifact.digest for outcome in first]
    assert all(outcome.is_kept for outcome in second)
    assert caplog.messages == [
        f"{number} of 7: {stage['kind']}: {tmp_path / name} stands already, kept"
        for number, (stage, name) in enumerate(zip(STAGES, NAMES, strict=True), 1)
    ]


def test_a_run_that_broke_goes_on_where_it_stood(workshop: Workshop, tmp_path: Path) -> None:
    workshop.breaks_at = "android"
    with pytest.raises(ExportError, match="android broke"):
        run_recipe(recipe(), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["baseline", "int8"]
    workshop.breaks_at = None
    workshop.made.clear()
    outcomes = run_recipe(recipe(), tmp_path)
    assert workshop.made == NAMES[2:]
    assert [outcome.is_kept for outcome in outcomes] == [True, True, False, False, False, False, False]


def test_other_settings_are_refused_before_anything_runs(workshop: Workshop, tmp_path: Path) -> None:
    run_recipe(recipe(), tmp_path)
    workshop.made.clear()
    with pytest.raises(ArtifactError, match=r"baseline: made with steps = 5; expected steps = 6; remove it, or choose"):
        run_recipe(recipe(steps=6), tmp_path)
    with pytest.raises(ArtifactError, match=r"android-verify: made with budget.program_size_ratio = 0.3; expected"):
        run_recipe(recipe(budget={"program_size_ratio": 0.2}), tmp_path)
    assert workshop.made == []


def test_an_artifact_of_another_stage_is_refused(workshop: Workshop, tmp_path: Path) -> None:
    run_recipe(recipe(), tmp_path)
    (tmp_path / "int8").rename(tmp_path / "aside")
    (tmp_path / "baseline").rename(tmp_path / "int8")
    with pytest.raises(ArtifactError, match="int8: made by train; expected made by compress"):
        run_recipe(recipe(), tmp_path)


def test_what_was_made_from_something_else_is_refused(workshop: Workshop, tmp_path: Path) -> None:
    run_recipe(recipe(), tmp_path / "a")
    with new_artifact(tmp_path / "b" / "baseline") as draft:  # the same settings, another content
        draft.finish(kind="checkpoint", stage="train", config=asdict(recipe().stages[0].config))
    (tmp_path / "a" / "int8").rename(tmp_path / "b" / "int8")
    with pytest.raises(ArtifactError, match=r"int8: was not made from .*baseline as it is now"):
        run_recipe(recipe(), tmp_path / "b")


def test_a_damaged_artifact_is_not_built_upon(workshop: Workshop, tmp_path: Path) -> None:
    run_recipe(recipe(), tmp_path)
    (tmp_path / "int8" / "content").write_text("int9")
    with pytest.raises(ArtifactError, match="sha256"):
        run_recipe(recipe(), tmp_path)


def test_a_directory_that_is_no_artifact_is_refused(workshop: Workshop, tmp_path: Path) -> None:
    (tmp_path / "int8").mkdir()
    with pytest.raises(ArtifactError, match="expected a finished artifact"):
        run_recipe(recipe(), tmp_path)
    assert workshop.made == []


# The table


def test_the_table_has_a_row_for_each_model_with_what_the_evidence_says(workshop: Workshop, tmp_path: Path) -> None:
    rows = {row["name"]: row for row in rows_json(table_rows(run_recipe(recipe(), tmp_path)))}
    assert list(rows) == ["baseline", "int8", "android", "linux-x86_64"]
    assert rows["baseline"]["known"] == {"at_1": 0.5, "at_10": 0.7}
    assert rows["android"]["known"] == {"at_1": 0.4, "at_10": 0.6}
    assert rows["android"]["novel"] is None  # the data has no such texts
    assert rows["android"]["latency_ratio"] == {"encode_image": 0.5, "encode_text": 0.25}
    assert rows["linux-x86_64"]["latency_ratio"] is None  # it was not timed
    assert (rows["android"]["worst_language"], rows["android"]["worst_retention"]) == ("sw", 0.96)
    assert [rows[name]["verdict"] for name in rows] == [None, None, "pass", "pass"]
    assert rows["int8"]["known"] is None  # nothing measured it


def test_the_table_fits_a_terminal_of_80_columns(workshop: Workshop, tmp_path: Path) -> None:
    from rich.console import Console

    console = Console(width=80, record=True, file=StringIO())
    console.print(draw_table(table_rows(run_recipe(recipe(), tmp_path / "run")), "my"))
    text = console.export_text()
    for expected in ("0.400/0.600", "sw 96.0%", "0.50x/0.25x", "pass", "linux-x86_64"):
        assert expected in text


# The command


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "my.toml"
    path.write_text(
        '[[stage]]\nkind = "train"\n[[stage]]\nkind = "export"\ntarget = "android"\n[[stage]]\nkind = "verify"\n'
    )
    return path


@pytest.mark.parametrize(("verdict", "code"), [("pass", 0), ("not enough data", 0), ("fail", 3)])
def test_a_failed_verdict_is_exit_code_3(workshop: Workshop, written: Path, verdict: str, code: int) -> None:
    workshop.verdict = verdict
    result = CliRunner().invoke(cli, ["run", "my.toml"])
    assert result.exit_code == code
    assert verdict in result.stdout
    assert ("verdict fail: runs/my/android-verify (program_size_ratio)" in result.stderr) == (code == 3)
    assert load_artifact("runs/my/android").manifest.kind == "bundle"


def test_run_prints_json(workshop: Workshop, written: Path) -> None:
    result = CliRunner().invoke(cli, ["run", "my.toml", "--out", "there", "--set", "train.steps=3", "--json"])
    assert result.exit_code == 0, result.output
    stages = json.loads(result.stdout)
    assert [(stage["stage"], stage["kind"], stage["kept"]) for stage in stages] == [
        ("baseline", "train", False),
        ("android", "export", False),
        ("android-verify", "verify", False),
    ]
    assert stages[2]["verdict"] == "pass"
    assert load_artifact("there/baseline").manifest.config["steps"] == 3
