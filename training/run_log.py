"""What a run leaves to read: `metrics.jsonl`, the trackers of accelerate, the curve and the summary.

A row has a number per name: "step" and what `metrics_row` puts in. All of it is written by the main
process alone; on the others every call does nothing.
"""

import json
import logging
import math
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass
from difflib import get_close_matches
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from accelerate import Accelerator
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, filter_trackers, get_available_trackers

from dmedge.errors import ConfigError, DmedgeError
from dmedge.training.config import TrainConfig
from dmedge.training.curve import draw_curve
from dmedge.training.summary import SUMMARY, RunMeter, RunSummary, write_atomically

logger = logging.getLogger(__name__)

DRAW_EVERY_S = 20.0  # at most: a picture of the curve takes half a second
METRICS, CURVE, TENSORBOARD, RUN_ID = "metrics.jsonl", "curve.png", "tensorboard", "run-id"
PROJECT = "dmedge"  # what a tracker that has projects files a run under


class RunLog:
    """The log of one run in `folder`; a context manager, or closed by `close`."""

    def __init__(self, folder: Path, accelerator: Accelerator, config: TrainConfig, *, step: int = 0) -> None:
        """Open the log of a run that starts or continues after `step`; rows of later steps are dropped.

        Raises:
            ConfigError: a tracker is unknown.
            DmedgeError: a tracker is not installed.
        """
        self.folder = folder
        self.rows: list[dict[str, Any]] = []
        self._accelerator = accelerator
        self._file: IO[str] | None = None
        self._drawn_at = time.monotonic()
        trackers = check_trackers(config.trackers)
        if not accelerator.is_main_process:
            return
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / METRICS
        self.rows = _kept_rows(path, step)
        write_atomically(path, "".join(map(_json_line, self.rows)).encode())
        self._file = path.open("a", encoding="utf-8")
        _start_trackers(accelerator, trackers, folder, config, step)

    @property
    def name(self) -> str:
        """Name of the run: that of the folder without ".log"."""
        return self.folder.resolve().name.removesuffix(".log")

    def metrics(self, step: int, row: Mapping[str, Any]) -> None:
        """Log the numbers of one step, which follows the one logged before.

        Raises:
            ValueError: a row of this step or of a later one is there already.
        """
        if self._file is None:
            return
        if self.rows and step <= self.rows[-1]["step"]:
            raise ValueError(f"step {step} after step {self.rows[-1]['step']}; expected one row per step, in order")
        plain = {"step": step} | {name: _plain(value) for name, value in row.items() if name != "step"}
        self.rows.append(plain)
        self._file.write(_json_line(plain))
        self._file.flush()
        known = {name: value for name, value in plain.items() if name != "step" and value is not None}
        self._accelerator.log(known, step=step)

    def draw(self) -> None:
        """Draw the curve of what has been logged so far, unless that was done a moment ago."""
        if time.monotonic() - self._drawn_at >= DRAW_EVERY_S:
            self._draw()

    def _draw(self) -> None:
        """Draw the curve; without matplotlib a run goes on with a warning."""
        if self._file is None:
            return
        self._drawn_at = time.monotonic()
        try:
            draw_curve(self.rows, self.folder / CURVE, name=self.name)
        except DmedgeError as error:
            logger.warning("%s is not drawn: %s", self.folder / CURVE, error)

    def close(self, summary: RunSummary | None = None) -> None:
        """Draw the curve, write the summary and end the trackers; a second call does nothing."""
        if self._file is None:
            return
        try:
            self._draw()
            if summary is not None:
                summary.write(self.folder / SUMMARY)
        finally:
            self._file.close()
            self._file = None
            for tracker in self._accelerator.trackers:  # Accelerator.end_training would end the process group too
                tracker.finish()
            self._accelerator.trackers = []

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def metrics_row(
    losses: Mapping[str, float],
    evaluation: Mapping[str, float] | None = None,
    *,
    learning_rate: float | None = None,
    epoch: float | None = None,
    meter: RunMeter | None = None,
) -> dict[str, float]:
    """Name the numbers of a row as the curve and the trackers expect them.

    Args:
        losses: "loss" is their sum and keeps its name, "contrastive" or "local/match" becomes
            "loss/contrastive" or "loss/match".
        evaluation: kept as it is; a name with "/", such as "recall_at_10/de", is logged but not drawn.
    """
    row = {name if name == "loss" else f"loss/{name.removeprefix('local/')}": value for name, value in losses.items()}
    row |= evaluation or {}
    if learning_rate is not None:
        row["learning_rate"] = learning_rate
    if epoch is not None:
        row["epoch"] = epoch
    if meter is not None:
        row |= {"seconds": meter.seconds, "images_per_s": meter.recent_images_per_s}
        row |= {"waiting_share": meter.waiting_share}
    return row


def note(row: Mapping[str, Any], images_per_s: float) -> str:
    """A row in a few words, for the progress display; `row` may hold the last evaluation beside the losses."""
    parts = {name.removeprefix("loss/"): value for name, value in row.items() if name.startswith("loss/")}
    detail = " ".join(f"{name} {value:.2f}" for name, value in parts.items() if value is not None)
    words = []
    if row.get("loss") is not None:
        words.append(f"loss {row['loss']:.2f}" + (f" ({detail})" if len(parts) > 1 else ""))
    words.append(f"{images_per_s:.0f} images/s" if images_per_s >= 10 else f"{images_per_s:.1f} images/s")
    words += [f"recall@{k} {row[key]:.3f}" for k in (1, 10) if row.get(key := f"recall_at_{k}") is not None][-1:]
    return ", ".join(words)


def check_trackers(names: Sequence[str]) -> list[str]:
    """Return the trackers that can be started; without tensorboard, the default, a run goes on with a warning.

    Raises:
        ConfigError: accelerate knows no tracker of this name.
        DmedgeError: the package of a tracker other than tensorboard is not installed.
    """
    available, found = {tracker.value for tracker in get_available_trackers()}, []
    for name in dict.fromkeys(names):
        if name not in LOGGER_TYPE_TO_CLASS:
            known = sorted(LOGGER_TYPE_TO_CLASS)
            close = get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"expected some of {', '.join(known)}"
            raise ConfigError(f"trackers: unknown tracker {name!r}; {hint}")
        if name in available:
            found.append(name)
        elif name == TENSORBOARD:
            logger.warning("tensorboard is not installed; the run goes on without it; run pip install tensorboard")
        else:
            raise DmedgeError(
                f"trackers: {name} is not installed; expected its package beside dmedge; "
                f"run pip install {name}, or take it out of trackers"
            )
    return found


def _start_trackers(
    accelerator: Accelerator, names: Sequence[str], folder: Path, config: TrainConfig, step: int
) -> None:
    """Start the trackers; a run that continues goes on in TensorBoard and W&B, and is a new one elsewhere."""
    title = folder.resolve().name.removesuffix(".log")
    accelerator.project_configuration.logging_dir = str(folder / TENSORBOARD)
    accelerator.log_with = filter_trackers(list(names), accelerator.logging_dir)
    options: dict[str, dict[str, Any]] = {
        "tensorboard": {"purge_step": step + 1},
        "mlflow": {"run_name": title},
        "trackio": {"name": title},
    }
    if "wandb" in names:
        options["wandb"] = {"name": title, "dir": str(folder), "id": _run_id(folder, step), "resume": "allow"}
    accelerator.init_trackers(PROJECT, init_kwargs=options)
    settings = _flat(config)
    for tracker in accelerator.trackers:
        if tracker.name == TENSORBOARD:  # its own table of settings would show as one more run
            tracker.log({"settings": "\n".join(f"    {name} = {value}" for name, value in settings.items())}, step=step)
        else:
            tracker.store_init_configuration(settings)


def _run_id(folder: Path, step: int) -> str:
    """Name of the run for a service, the same when the run is continued."""
    path = folder / RUN_ID
    if step == 0 or not path.exists():
        write_atomically(path, secrets.token_hex(8).encode())
    return path.read_text(encoding="utf-8")


def _flat(config: Any, prefix: str = "") -> dict[str, Any]:
    """Settings by dotted name, as trackers want them."""
    table = asdict(config) if is_dataclass(config) and not isinstance(config, type) else config
    found: dict[str, Any] = {}
    for name, value in table.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = value if isinstance(value, (bool, int, float, str)) else str(value)
    return found


def _kept_rows(path: Path, step: int) -> list[dict[str, Any]]:
    """Rows up to `step`, without the line that a kill cut short."""
    rows: list[dict[str, Any]] = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else ():
        try:
            row = json.loads(line)
            is_next = (rows[-1]["step"] if rows else 0) < row["step"] <= step
        except (ValueError, KeyError, TypeError):
            continue
        if is_next:
            rows.append(row)
    return rows


def _json_line(row: Mapping[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
    """A number or a text that JSON has; None for a number that is none."""
    if isinstance(value, (str, bool, int)) or value is None:
        return value
    number = float(value)  # of numpy and torch too
    return number if math.isfinite(number) else None
