"""Laws of a run's log: one row per step, whatever kills it; nothing that JSON does not have; times that add up."""

import json
import logging
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers
from PIL import Image

from dmedge.errors import ConfigError, DmedgeError
from dmedge.model.config import ModelConfig
from dmedge.model.costs import count_costs
from dmedge.model.dual import DualEncoder
from dmedge.training import run_log
from dmedge.training.config import TrainConfig
from dmedge.training.curve import draw_curve
from dmedge.training.run_log import RunLog, check_trackers, metrics_row, note
from dmedge.training.summary import RunMeter, best_row, duration, summarise, tower_macs

QUIET = TrainConfig(trackers=())


@pytest.fixture
def accelerator() -> Accelerator:
    """One of its own, whatever a run before it in this process computed with."""
    AcceleratorState._reset_state(reset_partial_state=False)
    return Accelerator(cpu=True, mixed_precision="no")


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def run(folder: Path, accelerator: Accelerator, steps: range, config: TrainConfig = QUIET) -> None:
    with RunLog(folder, accelerator, config, step=steps.start - 1) as log:
        for step in steps:
            log.metrics(step, {"loss": 1 / step})


# Rows


def test_a_resumed_run_has_every_step_once(tmp_path: Path, accelerator: Accelerator) -> None:
    run(tmp_path / "resumed.log", accelerator, range(1, 8))
    run(tmp_path / "resumed.log", accelerator, range(5, 11))
    run(tmp_path / "whole.log", accelerator, range(1, 11))
    assert rows_of(tmp_path / "resumed.log") == rows_of(tmp_path / "whole.log")
    assert [row["step"] for row in rows_of(tmp_path / "whole.log")] == list(range(1, 11))


def test_a_run_that_starts_anew_leaves_no_old_rows(tmp_path: Path, accelerator: Accelerator) -> None:
    for _ in range(2):
        run(tmp_path / "x.log", accelerator, range(1, 4))
    assert len(rows_of(tmp_path / "x.log")) == 3


def test_a_line_that_a_kill_cut_short_is_dropped(tmp_path: Path, accelerator: Accelerator) -> None:
    run(tmp_path, accelerator, range(1, 4))
    path = tmp_path / "metrics.jsonl"
    path.write_text(path.read_text(encoding="utf-8")[:-9], encoding="utf-8")
    run(tmp_path, accelerator, range(4, 5))
    assert [row["step"] for row in rows_of(tmp_path)] == [1, 2, 4]


def test_rows_reach_the_file_at_once(tmp_path: Path, accelerator: Accelerator) -> None:
    log = RunLog(tmp_path, accelerator, QUIET)
    log.metrics(1, {"loss": torch.tensor(0.5)})
    assert rows_of(tmp_path) == [{"step": 1, "loss": 0.5}]
    log.close()
    log.close()


def test_what_is_no_number_is_null(tmp_path: Path, accelerator: Accelerator) -> None:
    with RunLog(tmp_path, accelerator, QUIET) as log:
        log.metrics(1, {"loss": math.inf, "recall_at_10": math.nan, "language": "de"})
    assert rows_of(tmp_path) == [{"step": 1, "loss": None, "recall_at_10": None, "language": "de"}]


def test_a_step_cannot_be_logged_twice(tmp_path: Path, accelerator: Accelerator) -> None:
    with RunLog(tmp_path, accelerator, QUIET) as log:
        log.metrics(3, {"loss": 1.0})
        with pytest.raises(ValueError, match="step 3 after step 3; expected one row per step"):
            log.metrics(3, {"loss": 1.0})


def test_other_processes_write_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dmedge.training.run_log.DRAW_EVERY_S", 0)
    other: Any = SimpleNamespace(is_main_process=False)
    with RunLog(tmp_path / "x.log", other, QUIET) as log:
        log.metrics(1, {"loss": 1.0})
        log.draw()
    assert list(tmp_path.iterdir()) == []


# Trackers


def test_tensorboard_shows_every_step_once(tmp_path: Path, accelerator: Accelerator) -> None:
    from tensorboard.backend.event_processing.event_accumulator import (  # type: ignore[import-untyped]
        EventAccumulator,
    )

    config = replace(QUIET, trackers=("tensorboard",))
    run(tmp_path, accelerator, range(1, 8), config)
    run(tmp_path, accelerator, range(5, 9), config)
    (folder,) = (tmp_path / "tensorboard").iterdir()
    events = EventAccumulator(str(folder)).Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [
        (step, pytest.approx(1 / step)) for step in range(1, 9)
    ]
    assert "settings/text_summary" in events.Tags()["tensors"]
    assert accelerator.trackers == []


def test_an_unknown_tracker_names_its_neighbour() -> None:
    with pytest.raises(ConfigError, match="unknown tracker 'tensorbord'; did you mean 'tensorboard'?"):
        check_trackers(["tensorbord"])
    with pytest.raises(ConfigError, match="unknown tracker 'x'; expected some of aim, "):
        check_trackers(["x"])


def test_a_tracker_that_is_not_installed_names_its_command(tmp_path: Path, accelerator: Accelerator) -> None:
    name = sorted(LOGGER_TYPE_TO_CLASS.keys() - {tracker.value for tracker in get_available_trackers()})[0]
    with pytest.raises(DmedgeError, match=f"{name} is not installed; .* pip install {name}"):
        RunLog(tmp_path / "x.log", accelerator, replace(QUIET, trackers=(name,)))
    assert not (tmp_path / "x.log").exists()


def test_a_run_goes_on_without_tensorboard(
    tmp_path: Path, accelerator: Accelerator, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(run_log, "get_available_trackers", list)
    with caplog.at_level(logging.WARNING, logger="dmedge"):
        run(tmp_path, accelerator, range(1, 3), TrainConfig())
    assert "pip install tensorboard" in caplog.text
    assert len(rows_of(tmp_path)) == 2
    assert not (tmp_path / "tensorboard").exists()


# The curve


@pytest.mark.parametrize(
    "rows",
    [
        [metrics_row({"loss": 1.0}) | {"step": 1}],
        [{"step": step, "loss": 100 / step, "recall_at_10": None} for step in range(1, 300)],
        [{"step": step, "loss": -1.0, "learning_rate": 0.0, "recall_at_10": 0.0} for step in (1, 2)],
        [{"step": 5, "recall_at_1": 0.5, "language": "de"}],
    ],
    ids=["one step", "no evaluation", "zeros", "no loss"],
)
def test_any_run_has_a_curve(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    draw_curve(rows, tmp_path / "curve.png")
    with Image.open(tmp_path / "curve.png") as picture:
        assert picture.width == 1296
    assert [path.name for path in tmp_path.iterdir()] == ["curve.png"]


def test_a_run_without_numbers_has_none(tmp_path: Path) -> None:
    draw_curve([{"step": 1, "loss": None}], tmp_path / "curve.png")
    draw_curve([], tmp_path / "curve.png")
    assert not list(tmp_path.iterdir())


def test_a_curve_is_drawn_while_a_run_goes_on_but_not_all_the_time(
    tmp_path: Path, accelerator: Accelerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    curve = tmp_path / "x.log" / "curve.png"
    with RunLog(tmp_path / "x.log", accelerator, QUIET) as log:
        log.metrics(1, {"loss": 1.0})
        log.draw()
        assert not curve.exists()
        monkeypatch.setattr("dmedge.training.run_log.DRAW_EVERY_S", 0)
        log.draw()
        assert curve.exists()


def test_closing_draws_the_curve(tmp_path: Path, accelerator: Accelerator) -> None:
    run(tmp_path / "x.log", accelerator, range(1, 3))
    assert sorted(path.name for path in (tmp_path / "x.log").iterdir()) == ["curve.png", "metrics.jsonl"]


# The summary


def tiny_model() -> DualEncoder:
    shape: dict[str, Any] = {"image_size": 16, "image_width": 4, "text_width": 8, "text_heads": 2, "text_layers": 1}
    return DualEncoder(ModelConfig(vocab_size=32, classes=0, embed_dim=8, fusion="none", **shape))


def test_times_of_a_resumed_run_add_up(accelerator: Accelerator) -> None:
    first, whole = RunMeter(), RunMeter()
    step = {"images": 8, "texts": 16, "seconds": 2.0, "waited_s": 0.5}
    for _ in range(3):
        first.count(**step)  # type: ignore[arg-type]
    saved = json.loads(json.dumps(first.state(accelerator.device)))
    second = RunMeter(**saved)
    for meter, steps in ((second, 2), (whole, 5)):
        for _ in range(steps):
            meter.count(**step)  # type: ignore[arg-type]
    assert replace(second, peak_bytes=0) == replace(whole, peak_bytes=0)
    assert (second.seconds, second.waiting_share, second.recent_images_per_s) == (10.0, 0.25, 4.0)


def test_a_summary_says_what_the_run_was(tmp_path: Path, accelerator: Accelerator) -> None:
    meter = RunMeter(steps=10, images=80, texts=160, seconds=20.0, waited_s=1.0, peak_bytes=1 << 60)
    rows = [{"step": step, "loss": 1.0, "recall_at_10": score} for step, score in ((4, 0.5), (8, 0.7), (10, 0.6))]
    settings: dict[str, Any] = {"accelerator": accelerator, "images_per_epoch": 40}
    summary = summarise("tiny", meter, tiny_model(), rows, metric="", **settings)
    assert (summary.best_metric, summary.best_value, summary.best_step) == ("recall_at_10", 0.7, 8)
    assert (summary.epochs, summary.best_epoch) == (2.0, 1.6)
    assert (summary.images_per_s, summary.texts_per_s, summary.waiting_share) == (4.0, 8.0, 0.05)
    assert summary.peak_memory_bytes == 1 << 60  # the peak of an earlier part counts
    assert (summary.ranks, summary.precision) == (1, "float32")
    with RunLog(tmp_path, accelerator, QUIET) as log:
        log.close(summary)
    assert json.loads((tmp_path / "summary.json").read_text(encoding="utf-8")) == json.loads(summary.to_json())
    assert {"best", "training time", "peak memory"} <= {label for label, _ in summary.lines()}


def test_a_run_that_evaluated_nothing_has_no_best(accelerator: Accelerator) -> None:
    summary = summarise("x", RunMeter(), tiny_model(), [], metric="", accelerator=accelerator, images_per_epoch=0)
    assert (summary.best_metric, summary.best_value, summary.best_step) == ("", None, None)
    assert summary.peak_memory_bytes > 0


def test_the_towers_cost_what_the_model_costs() -> None:
    model = tiny_model().train()
    assert sum(tower_macs(model)) == count_costs(model.eval()).macs
    assert tower_macs(model.train()) == tower_macs(model.eval())


def test_the_best_loss_is_the_least_and_the_earliest() -> None:
    rows = [{"step": step, "loss/match": loss} for step, loss in ((1, 2.0), (2, 1.0), (3, 1.0), (4, None))]
    assert best_row(rows, "loss/match") == rows[1]
    assert best_row(rows, "recall_at_10") is None


# Words


def test_a_note_is_short() -> None:
    row = metrics_row({"loss": 3.0, "contrastive": 2.0, "local/match": 1.0}, {"recall_at_10": 0.25, "recall_at_1": 0.1})
    assert note(row, 812.4) == "loss 3.00 (contrastive 2.00 match 1.00), 812 images/s, recall@10 0.250"
    assert note(metrics_row({"loss": 3.0, "contrastive": 3.0}), 2.34) == "loss 3.00, 2.3 images/s"


def test_durations_are_words() -> None:
    assert [duration(seconds) for seconds in (4.21, 188, 7500)] == ["4.2 s", "3 min 08 s", "2 h 05 min"]
