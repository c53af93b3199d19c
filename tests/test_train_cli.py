"""dmedge train: what it prints, where it writes, how it goes on, and how it refuses."""

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
from click.testing import CliRunner

from dmedge.artifact import load_artifact
from dmedge.cli.main import cli
from tests.tiny_training import tiny_config, tiny_world

SETTINGS = [
    f"{name}{'.' + key if isinstance(value, dict) else ''}={json.dumps(inner)}"
    for name, value in asdict(tiny_config()).items()
    if value is not None
    for key, inner in (value.items() if isinstance(value, dict) else [("", value)])
]
TINY = [argument for setting in SETTINGS for argument in ("--set", setting)]


@pytest.fixture(autouse=True)
def _in_an_empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run(*arguments: str) -> tuple[int, str, str]:
    with tiny_world():
        result = CliRunner().invoke(cli, ["train", *TINY, *arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


def test_it_prints_the_path_and_the_validation_figures() -> None:
    code, stdout, stderr = run("emoji-quick", "--steps", "6")
    assert code == 0, stderr
    lines = stdout.splitlines()
    assert lines[0] == "runs/emoji-quick"
    labels = {line[2:32].strip() for line in lines[1:]}
    assert {"recall at 1", "recall at 10", "training time", "peak memory", "throughput", "best"} <= labels
    log = Path("runs/emoji-quick.log")
    assert {"metrics.jsonl", "curve.png", "summary.json"} <= {path.name for path in log.iterdir()}
    assert [json.loads(line)["step"] for line in (log / "metrics.jsonl").read_text().splitlines()] == [1, 2, 3, 4, 5, 6]
    assert "train 6/6" in stderr
    assert load_artifact("runs/emoji-quick", kind="checkpoint").manifest.config["steps"] == 6
    assert sorted(path.name for path in Path("runs").iterdir()) == ["emoji-quick", "emoji-quick.log"]


def test_json_is_all_that_goes_to_stdout() -> None:
    code, stdout, _ = run("--set", "epochs=40", "--steps", "5", "--out", "here", "--json")  # steps win
    assert code == 0
    facts = json.loads(stdout)
    assert facts["path"] == "here"
    assert facts["digest"] == load_artifact("here").digest
    assert facts["validation"]["step"] == 5
    assert 0 <= facts["validation"]["recall_at_1"] <= 1
    assert facts["parameters"] > 0
    assert facts["summary"]["steps"] == 5


def test_a_killed_run_is_continued_and_says_so() -> None:
    child = subprocess.run(
        [sys.executable, "-m", "tests.tiny_training", str(Path("runs/emoji").absolute()), "train_step", "9"],
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        check=False,
    )
    assert child.returncode == -9, child.stderr
    assert list(Path("runs/emoji.steps").glob("step-*.pt"))
    code, stdout, stderr = run("--steps", "10", "--resume")
    assert code == 0, stderr
    assert "continuing runs/emoji.steps at step 8 of 10" in " ".join(stderr.split())
    assert stdout.startswith("runs/emoji\n")


def test_without_a_run_there_is_nothing_to_resume() -> None:
    code, stdout, stderr = run("--resume")
    assert (code, stdout) == (1, "")
    assert "runs/emoji.steps: no run to continue; expected one that was stopped; leave out --resume" in stderr
    assert list(Path().iterdir()) == []


def test_an_existing_directory_is_an_error() -> None:
    Path("runs/emoji").mkdir(parents=True)
    code, stdout, stderr = run("--steps", "5")
    assert (code, stdout) == (1, "")
    assert stderr.startswith("error: runs/emoji: exists already")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["emjoi"], "no recipe 'emjoi'; did you mean 'emoji'"),
        (["other.toml"], "other.toml: no such recipe file"),
        (["--set", "stpes=4"], "unknown key 'stpes'; did you mean 'steps'"),
        (["--set", "model.widht=4"], "unknown key 'widht'"),
        (["--set", "steps"], "expected key=value"),
        (["--set", "learning_rate=fast"], "learning_rate: found 'fast'; expected float"),
    ],
    ids=["recipe", "file", "key", "nested key", "no value", "type"],
)
def test_bad_settings_are_one_line_and_leave_nothing(arguments: list[str], message: str) -> None:
    code, stdout, stderr = run(*arguments)
    assert (code, stdout) == (1, "")
    assert message in stderr
    assert list(Path().iterdir()) == []


def test_no_steps_is_wrong_usage() -> None:
    assert run("--steps", "0")[0] == 2


def test_a_recipe_without_training_is_an_error() -> None:
    Path("my.toml").write_text('name = "my"\n', encoding="utf-8")
    code, _, stderr = run("my.toml")
    assert code == 1
    assert "holds no stage" in stderr
