"""dmedge demo: what it says, what it prints, what it leaves behind."""

import csv
import io
import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from PIL import Image
from rich.console import Console

from dmedge.artifact import load_artifact
from dmedge.cli.main import cli
from dmedge.flow.table import Recall, Row, draw_table
from tests.test_train_cli import SETTINGS
from tests.tiny_training import WORDS, tiny_data, tiny_world
from tests.workshop import Workshop

MADE = ["android", "android-bench", "android-verify", "baseline", "int8"]
MADE += ["linux-x86_64", "linux-x86_64-bench", "linux-x86_64-verify"]


@pytest.fixture(autouse=True)
def _in_an_empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def invoke(*arguments: str) -> Result:
    result = CliRunner().invoke(cli, ["demo", *arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


@pytest.fixture
def workshop(monkeypatch: pytest.MonkeyPatch) -> Workshop:
    monkeypatch.setattr("dmedge.flow.demo.collect", lambda place: place)
    monkeypatch.setattr("dmedge.flow.demo.render", lambda place: f"<html>{sorted(p.name for p in place.iterdir())}")
    return Workshop(monkeypatch)


def test_one_table_goes_to_stdout_and_the_talk_to_stderr(workshop: Workshop) -> None:
    result = invoke("--steps", "7")
    assert result.exit_code == 0
    talk = " ".join(result.stderr.split())
    assert "from scratch (7 steps)" in talk
    assert "android and linux-x86_64" in talk
    assert "about ten minutes" in talk
    assert talk.index("about ten minutes") < talk.index("1 of 8: train: making runs/demo/baseline")
    assert 'dmedge search runs/demo/android "ramen"' in talk
    for name in ("baseline", "int8", "android", "linux-x86_64", "runs/demo"):
        assert name in result.stdout
    assert "dmedge search" not in result.stdout
    assert load_artifact("runs/demo/baseline").manifest.config["steps"] == 7


def test_everything_lies_in_one_directory(workshop: Workshop) -> None:
    invoke("--out", "there")
    assert sorted(path.name for path in Path("there").iterdir()) == [*MADE, "report.html"]


def test_it_goes_on_where_it_stood_and_writes_the_report_anew(workshop: Workshop) -> None:
    workshop.breaks_at = "linux-x86_64"
    assert invoke("--steps", "7").exit_code == 1
    assert not Path("runs/demo/report.html").exists()
    workshop.breaks_at = None
    workshop.made.clear()
    assert invoke("--steps", "7").exit_code == 0
    assert workshop.made == ["linux-x86_64", "linux-x86_64-verify", "linux-x86_64-bench"]
    Path("runs/demo/report.html").write_text("old")
    assert invoke("--steps", "7").exit_code == 0
    assert Path("runs/demo/report.html").read_text().startswith("<html>")


def test_what_is_compared_with_is_made_ahead_and_never_beside_a_benchmark(workshop: Workshop) -> None:
    invoke("--steps", "7")
    assert workshop.twins == [("android", "executorch"), ("linux-x86_64", "onnxruntime")]
    assert workshop.waited == 2
    workshop.twins.clear()
    invoke("--steps", "7")
    assert workshop.twins == []  # all evidence stands


def test_other_steps_than_last_time_are_refused(workshop: Workshop) -> None:
    invoke("--steps", "7")
    result = invoke("--steps", "8")
    assert result.exit_code == 1
    assert "runs/demo/baseline: made with steps = 7; expected steps = 8; remove it" in result.stderr


@pytest.mark.parametrize("verdict", ["pass", "not enough data"])
def test_a_long_language_tag_takes_no_room_from_the_verdict(verdict: str) -> None:
    row = Row(
        name="linux-x86_64",
        kind="bundle",
        path="runs/demo/linux-x86_64",
        program_bytes=13_400_000,
        known=Recall(at_1=0.334, at_10=0.594),
        novel=Recall(at_1=0.216, at_10=0.426),
        worst_language="yue-Hans",
        worst_retention=0.989,
        latency_ratio={"encode_image": 1.0, "encode_text": 0.94},
        verdict=verdict,
    )
    console = Console(file=io.StringIO(), width=80, record=True)
    console.print(draw_table([row], "runs/demo"))
    words = console.export_text().split()
    assert set(verdict.split()) | {"linux-x86_64", "0.334/0.594", "yue-Hans", "98.9%", "1.00x/0.94x"} <= set(words)


def test_a_failed_verdict_comes_after_the_table(workshop: Workshop) -> None:
    workshop.verdict = "fail"
    result = invoke("--steps", "7")
    assert result.exit_code == 3
    assert "fail" in result.stdout
    assert Path("runs/demo/report.html").exists()
    assert "verdict fail: runs/demo/android-verify (program_size_ratio), runs/demo/linux-x86_64-verify" in result.stderr


def test_json_holds_the_table_and_every_stage(workshop: Workshop) -> None:
    found = json.loads(invoke("--steps", "7", "--json").stdout)
    assert [row["name"] for row in found["table"]] == ["baseline", "int8", "android", "linux-x86_64"]
    assert sorted(stage["stage"] for stage in found["stages"]) == MADE
    assert found["report"] == "runs/demo/report.html"


def captioned_folder(place: Path) -> Path:
    """The pictures of the tiny training data with captions in two languages that dmedge knows."""
    data = tiny_data()
    (place / "images").mkdir(parents=True)
    with (place / "captions.csv").open("w", newline="", encoding="utf-8") as stream:
        rows = csv.writer(stream)
        rows.writerow(["image", "language", "text"])
        for concept, word in enumerate(WORDS):
            Image.fromarray(data.images[data.first_image[concept]]).save(place / "images" / f"{word}.png")
            rows.writerows([[f"{word}.png", "en", word], [f"{word}.png", "de", f"{word}ovic"]])
    return place


@pytest.mark.slow
def test_the_whole_way_on_the_real_runtimes(tmp_path: Path) -> None:
    folder = captioned_folder(tmp_path / "pictures")
    settings = [*(f"train.{setting}" for setting in SETTINGS), 'train.model.text="bag"', 'train.model.fusion="product"']
    for bundle in ("android", "linux-x86_64"):
        settings += [f"{bundle}-verify.data={folder}", f"{bundle}-verify.resamples=200"]
        settings += [f"{bundle}-bench.data={folder}", f"{bundle}-bench.rounds=2", f"{bundle}-bench.repeats=1"]
    arguments = [argument for setting in settings for argument in ("--set", setting)]
    with tiny_world():
        result = invoke(*arguments, "--json")
    found = json.loads(result.stdout)
    rows = {row["name"]: row for row in found["table"]}
    assert result.exit_code == (3 if "fail" in {row["verdict"] for row in rows.values()} else 0)
    assert all(row["program_bytes"] > 0 for row in rows.values())
    for bundle in ("android", "linux-x86_64"):
        assert rows[bundle]["verdict"] in ("pass", "fail", "not enough data")
        assert rows[bundle]["worst_language"] in ("en", "de")
        assert set(rows[bundle]["latency_ratio"]) >= {"encode_image", "encode_text", "fuse"}
    page = Path("runs/demo/report.html").read_text(encoding="utf-8")
    assert "linux-x86_64" in page
    assert not re.search(r"""(src|href)=["']https?:""", page)  # the page asks no network
    left = {path.name for path in Path("runs/demo").iterdir()}
    logs = {f"{name}.log" for name in ("baseline", "android", "linux-x86_64")}
    assert left == {".cache", *MADE, *logs, "report.html"}

    with tiny_world():
        again = json.loads(invoke(*arguments, "--json").stdout)
    assert all(stage["kept"] for stage in again["stages"])
    assert again["table"] == found["table"]
