"""The frame of the command line: exit codes, one-line errors, quick help, and the commands that stand alone."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner

from dmedge.cli.common import ArtifactParam, default_artifact, print_json
from dmedge.cli.info import format_bytes
from dmedge.cli.main import COMMANDS, cli
from dmedge.errors import ConfigError, DmedgeError, VerifyError, require
from dmedge.logs import configure, logger, progress
from tests.conftest import MakeArtifact

HEAVY = ("torch", "onnxruntime", "executorch", "transformers", "numpy", "rich", "PIL")


def raising(error: BaseException) -> click.Command:
    @click.command()
    def command() -> None:
        raise error

    return command


@pytest.fixture
def use_command(monkeypatch: pytest.MonkeyPatch) -> Callable[[click.Command], None]:
    """Put a command of the test's own in the place of `dmedge info`."""

    def use(command: click.Command) -> None:
        monkeypatch.setattr("dmedge.cli.info.info", command)

    return use


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (ConfigError("found a;\n  expected b"), 1, "error: found a; expected b\n"),
        (VerifyError("recall fell"), 3, "error: recall fell\n"),
        (FileNotFoundError(2, "No such file", "x"), 1, "error: [Errno 2] No such file: 'x'\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (click.UsageError("two of them"), 2, "Error: two of them"),
    ],
    ids=["dmedge", "verify", "os", "interrupt", "usage"],
)
def test_errors_are_a_line_and_a_code(
    use_command: Callable[[click.Command], None], error: BaseException, code: int, message: str
) -> None:
    use_command(raising(error))
    result = CliRunner().invoke(cli, ["info"])
    assert result.exit_code == code
    assert message in result.stderr
    assert result.stdout == ""
    assert "Traceback" not in result.output


def test_a_bug_is_not_hidden(use_command: Callable[[click.Command], None]) -> None:
    use_command(raising(ZeroDivisionError()))
    assert isinstance(CliRunner().invoke(cli, ["info"]).exception, ZeroDivisionError)


def test_unknown_command_names_the_nearest() -> None:
    result = CliRunner().invoke(cli, ["trian"])
    assert result.exit_code == 2
    assert "did you mean 'train'" in result.stderr


def test_version() -> None:
    result = CliRunner().invoke(cli, ["--version"])
    assert result.exit_code == 0
    assert result.stdout.startswith("dmedge, version 0.")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name: str) -> None:
    result = CliRunner().invoke(cli, [name, "--help"])
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith(f"Usage: cli {name}")


@pytest.mark.parametrize(("typed", "found"), [("dmedge ver", "verify"), ("dmedge verify --rob", "--robustness")])
def test_completion(typed: str, found: str) -> None:
    words = {"COMP_WORDS": typed, "COMP_CWORD": str(typed.count(" "))}
    done = CliRunner().invoke(cli, prog_name="dmedge", env={"_DMEDGE_COMPLETE": "bash_complete", **words})
    assert done.stdout.splitlines() == [f"plain,{found}"]


def test_help_imports_nothing_heavy() -> None:
    # Counted in modules, not seconds: a busy machine must not fail it.
    program = (
        "import sys; sys.argv = ['dmedge', '--help']\n"
        "from dmedge.cli.main import main\n"
        "try:\n    main()\nfinally:\n"
        f"    print('HEAVY', [name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "Commands:" in done.stdout
    assert done.stdout.endswith("HEAVY []\n")
    assert all(f"  {name} " in done.stdout for name in COMMANDS)


def test_reader_that_leaves_early_is_no_error() -> None:
    done = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m dmedge.cli.main --help | true"], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["interrupt", "terminate"]
)
def test_a_signal_leaves_nothing_half_written(tmp_path: Path, number: signal.Signals, code: int) -> None:
    program = (
        "import signal, sys, time, click, dmedge.cli.info, dmedge.cli.main\n"
        "from pathlib import Path\n"
        "from dmedge.artifact import new_artifact\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a background job inherits it ignored
        "@click.command()\n"
        "def slow():\n"
        "    with new_artifact(Path('runs/out')) as draft:\n"
        "        (draft.path / 'half').write_text('x')\n"
        "        print('begun', flush=True)\n"
        "        time.sleep(60)\n"
        "dmedge.cli.info.info = slow\n"
        "sys.argv = ['dmedge', 'info']\n"
        "dmedge.cli.main.main()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "begun\n"
        assert list((tmp_path / "runs").iterdir())
        child.send_signal(number)
        _, stderr = child.communicate(timeout=30)
    assert child.returncode == code
    assert "Traceback" not in stderr
    assert list(tmp_path.iterdir()) == []


def test_default_artifact_is_the_newest_and_says_which(
    make_artifact: MakeArtifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    old = make_artifact("runs/old")
    os.utime(old.root / "manifest.json", (1, 1))
    make_artifact("runs/new", config={"seed": 1})
    assert default_artifact("checkpoint").name == "new"
    assert default_artifact("checkpoint", accept=lambda m: m.config["seed"] == 0, what="baseline").name == "old"
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "using runs/new (newest checkpoint)\nusing runs/old (newest baseline)\n"


def test_artifact_argument_of_the_wrong_kind(make_artifact: MakeArtifact) -> None:
    @click.command()
    @click.argument("parent", type=ArtifactParam("bundle"))
    def command(parent: object) -> None:
        raise AssertionError(parent)

    group = click.Group("dmedge", commands={"command": command})
    checkpoint = make_artifact("a")
    result = CliRunner().invoke(group, ["command", str(checkpoint.root)])
    assert isinstance(result.exception, DmedgeError)
    assert "found a checkpoint; expected a bundle" in str(result.exception)


def test_info_shows_manifest_files_and_lineage(make_artifact: MakeArtifact) -> None:
    baseline = make_artifact("baseline")
    small = make_artifact("small", parents={"parent": baseline.digest, "teacher": "e" * 64})
    facts = json.loads(CliRunner().invoke(cli, ["info", str(small.root), "--json"]).stdout)
    assert facts["digest"] == small.digest
    assert facts["manifest"]["parents"] == {"parent": baseline.digest, "teacher": "e" * 64}
    assert [(a["role"], a["path"]) for a in facts["lineage"]] == [("parent", str(baseline.root)), ("teacher", None)]
    text = CliRunner().invoke(cli, ["info", str(small.root)]).stdout
    for expected in ("checkpoint, made by test", small.digest, "weights.bin", baseline.digest[:12], "not found"):
        assert expected in text


def test_info_of_a_damaged_artifact(make_artifact: MakeArtifact) -> None:
    artifact = make_artifact("a")
    artifact.file("weights.bin").write_bytes(b"wEights")
    result = CliRunner().invoke(cli, ["info", str(artifact.root)])
    assert result.exit_code == 1
    assert result.stderr.startswith("error: ")
    assert "weights.bin: sha256" in result.stderr


def test_doctor_names_what_is_missing_and_its_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dmedge.cli.doctor.package_version", lambda name: None if name == "executorch" else "1.0")
    monkeypatch.setattr("dmedge.cli.doctor._PROOFS", {"onnxruntime": "pass", "torch": "raise OSError('libx.so')"})
    facts = json.loads(CliRunner().invoke(cli, ["doctor", "--json"]).stdout)
    missing = [(finding["name"], finding["fix"]) for finding in facts["packages"] if finding["found"] is None]
    assert missing == [("executorch", "pip install 'dmedge[executorch]'")]
    torch = {finding["name"]: finding for finding in facts["runtimes"]}["torch"]
    assert torch["found"] is None
    assert "libx.so" in torch["needed_for"]
    assert facts["host"]["cores"] >= 1
    text = CliRunner().invoke(cli, ["doctor"]).stdout
    assert "To add what is missing:" in text
    assert "pip install 'dmedge[executorch]'" in text


def test_print_json_takes_numpy_and_paths(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"n": np.float32(0.5), "ids": np.arange(2), "path": Path("a"), "text": "日本"})
    text = capsys.readouterr().out
    assert json.loads(text) == {"n": 0.5, "ids": [0, 1], "path": "a", "text": "日本"}
    assert "日本" in text


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (999, "999 B"), (9_940, "9.9 kB"), (14_000_000, "14.0 MB"), (123_456_789, "123 MB")]
)
def test_format_bytes(size: int, text: str) -> None:
    assert format_bytes(size) == text


def test_require_names_the_extra() -> None:
    assert require("json", "onnx") is json
    with pytest.raises(DmedgeError, match=r"cannot import no_such_runtime .*run pip install 'dmedge\[onnx\]'"):
        require("no_such_runtime", "onnx")


def test_messages_off_a_terminal_are_whole_lines(capsys: pytest.CaptureFixture[str]) -> None:
    configure()
    logger.info("kept in %s", "a/long/path " * 20)
    assert capsys.readouterr().err == "kept in " + "a/long/path " * 20 + "\n"


def test_progress_off_a_terminal_writes_lines_to_stderr(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter(range(0, 1000, 6))
    monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)))
    with progress("training", total=4) as advance:
        for step in range(4):
            advance(note=f"{'far ' * 40}loss {step}")
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert lines[-1].startswith("training 4/4")
    assert lines[-1].endswith("far loss 3")


@pytest.mark.parametrize(
    ("package", "arguments", "extra"),
    [("torch", ["train"], "train"), ("torch", ["eval", "emoji"], "train")],
    ids=["train", "eval"],
)
def test_a_missing_package_names_the_command_that_installs_it(
    tmp_path: Path, package: str, arguments: list[str], extra: str
) -> None:
    program = (
        f"import sys; sys.modules['{package}'] = None; sys.argv = ['dmedge', *{arguments}]\n"
        "import dmedge.cli.main; dmedge.cli.main.main()"
    )
    child = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert child.returncode == 1
    assert f"pip install 'dmedge[{extra}]'" in child.stderr
    assert "Traceback" not in child.stderr
