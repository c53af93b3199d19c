"""What a run has spent, and what came of it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from dmedge.environment import cpu_model
from dmedge.files import sync
from dmedge.model.costs import TEXT_LENGTH
from dmedge.model.dual import DualEncoder
from dmedge.runtime.session import peak_resident_bytes
from dmedge.training.early_stop import SMALLER_IS_BETTER, USUAL

if TYPE_CHECKING:
    from accelerate import Accelerator

Row = Mapping[str, Any]
SUMMARY = "summary.json"
_RECENT = 0.1  # weight of the newest step in the throughput that is shown while a run goes on


@dataclass
class RunMeter:
    """Counts the steps of a run; `images` and `texts` are those of all ranks.

    Its `state` is saved with the weights, and `RunMeter(**state)` continues from there, so the times
    of a run that was resumed add up. Steps that were lost with a kill are made again, and count once.
    """

    steps: int = 0
    images: int = 0
    texts: int = 0
    seconds: float = 0.0
    waited_s: float = 0.0  # of the seconds, for data
    peak_bytes: int = 0
    _recent_images_per_s: float = field(default=0.0, init=False, repr=False)

    def count(self, *, images: int, texts: int, seconds: float, waited_s: float) -> None:
        """Add one step that took `seconds`, `waited_s` of them for its data."""
        self.steps += 1
        self.images += images
        self.texts += texts
        self.seconds += seconds
        self.waited_s += waited_s
        rate = images / max(seconds, 1e-9)
        share = _RECENT if self._recent_images_per_s else 1.0
        self._recent_images_per_s += share * (rate - self._recent_images_per_s)

    @property
    def recent_images_per_s(self) -> float:
        """Throughput of the last ten steps or so."""
        return self._recent_images_per_s

    @property
    def waiting_share(self) -> float:
        """Share of the time of all steps spent waiting for data."""
        return self.waited_s / self.seconds if self.seconds else 0.0

    def state(self, device: torch.device) -> dict[str, Any]:
        """What to save; the peak memory is read now."""
        self.peak_bytes = max(self.peak_bytes, peak_memory(device)[0])
        return {name: value for name, value in asdict(self).items() if not name.startswith("_")}


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSummary:
    """The figures of one run; memory is that of the main process, the rest that of all ranks."""

    name: str
    seconds: float
    steps: int
    epochs: float
    images: int
    texts: int
    images_per_s: float
    texts_per_s: float
    waiting_share: float  # of the time of a step, for data
    peak_memory_bytes: int
    peak_memory_of: str  # what was measured
    parameters: int
    image_macs: int  # multiply-accumulates of one image
    text_macs: int  # and of one text of 16 tokens
    best_metric: str  # "" where nothing was evaluated
    best_value: float | None
    best_step: int | None
    best_epoch: float | None
    device: str
    ranks: int
    precision: str

    def to_json(self) -> str:
        """All figures as one JSON object."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n"

    def write(self, path: Path) -> None:
        """Write the JSON, whole or not at all."""
        write_atomically(path, self.to_json().encode())

    def lines(self) -> list[tuple[str, str]]:
        """The same for a person to read: labels and texts."""
        ranks = f" x {self.ranks}" if self.ranks > 1 else ""
        found = [
            ("device", f"{self.device}{ranks}, {self.precision}"),
            ("training time", duration(self.seconds)),
            ("steps", f"{self.steps:,} ({self.epochs:.2f} epochs, {self.images:,} images)"),
            ("throughput", f"{self.images_per_s:,.0f} images/s, {self.texts_per_s:,.0f} texts/s"),
            ("waiting for data", f"{self.waiting_share:.1%} of the time"),
            ("peak memory", f"{self.peak_memory_bytes / 1e6:,.0f} MB ({self.peak_memory_of})"),
            ("parameters", f"{self.parameters:,}"),
            ("cost", f"{_short(self.image_macs)} MACs an image, {_short(self.text_macs)} a text"),
        ]
        if self.best_value is not None:
            place = f"step {self.best_step:,}, epoch {self.best_epoch:.2f}"
            found.append(("best", f"{self.best_metric} {self.best_value:.4f} at {place}"))
        return found


def read_summary(folder: Path) -> RunSummary:
    """The summary in the log folder of a run that has ended."""
    return RunSummary(**json.loads((folder / SUMMARY).read_text(encoding="utf-8")))


def summarise(
    name: str,
    meter: RunMeter,
    model: DualEncoder,
    rows: Sequence[Row],
    *,
    accelerator: "Accelerator",
    images_per_epoch: int,
    metric: str,
) -> RunSummary:
    """Sum up a run that has ended.

    Args:
        model: bare and whole, e.g. the average; neither wrapped nor sharded.
        rows: of the run's log.
        metric: the one that decides which step was best; "" for the usual one, as in `EarlyStop`.
    """
    metric = metric or next((usual for usual in USUAL if any(usual in row for row in rows)), "")
    epochs = meter.images / max(1, images_per_epoch)
    best = best_row(rows, metric)
    step = None if best is None else int(best["step"])
    peak, kind = peak_memory(accelerator.device)
    seconds = max(meter.seconds, 1e-9)
    image_macs, text_macs = tower_macs(model)
    return RunSummary(
        name=name,
        seconds=meter.seconds,
        steps=meter.steps,
        epochs=epochs,
        images=meter.images,
        texts=meter.texts,
        images_per_s=meter.images / seconds,
        texts_per_s=meter.texts / seconds,
        waiting_share=meter.waiting_share,
        peak_memory_bytes=max(peak, meter.peak_bytes),
        peak_memory_of=kind,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        image_macs=image_macs,
        text_macs=text_macs,
        best_metric="" if best is None else metric,
        best_value=None if best is None else float(best[metric]),
        best_step=step,
        best_epoch=None if step is None else epochs * step / max(1, meter.steps),
        device=device_name(accelerator.device),
        ranks=accelerator.num_processes,
        precision={"no": "float32", "bf16": "bfloat16", "fp16": "float16"}.get(
            accelerator.mixed_precision, accelerator.mixed_precision
        ),
    )


def is_loss(name: str) -> bool:
    """Whether a number of a row is a loss, of which less is better; see `metrics_row` for the names."""
    return name == "loss" or name.startswith("loss/") or name.endswith("_loss")


def best_row(rows: Sequence[Row], metric: str) -> Row | None:
    """The row whose `metric` is best, the earliest of equals; None where no row has it."""
    known = [row for row in rows if row.get(metric) is not None]
    pick = min if SMALLER_IS_BETTER.search(metric) else max
    return pick(known, key=lambda row: float(row[metric]), default=None)


@torch.no_grad()
def tower_macs(model: DualEncoder) -> tuple[int, int]:
    """Multiply-accumulates of one image and of one text of 16 tokens."""
    config, device = model.config, model.logit_scale.device
    pixels = torch.zeros(1, config.image_size, config.image_size, 3, dtype=torch.uint8, device=device)
    ids = torch.ones(1, min(TEXT_LENGTH, config.context_length), dtype=torch.int32, device=device)
    was_training = model.training
    model.eval()  # one picture has no batch statistics
    with FlopCounterMode(display=False) as image:
        model.encode_image(pixels)
    with FlopCounterMode(display=False) as text:
        model.encode_text(ids, torch.ones_like(ids))
    model.train(was_training)
    return image.get_total_flops() // 2, text.get_total_flops() // 2


def peak_memory(device: torch.device) -> tuple[int, str]:
    """Largest memory until now in bytes, and what that is the memory of."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device), "GPU memory allocated by torch"
    return peak_resident_bytes(), "resident memory of the process"


def device_name(device: torch.device) -> str:
    """Marketing name of the GPU or of the processor."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_model()


def duration(seconds: float) -> str:
    """A time span as people say it: "4.2 s", "3 min 08 s", "2 h 05 min"."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def write_atomically(path: Path, data: bytes) -> None:
    """Put `data` in place of whatever is at `path`: a kill at any moment leaves the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")  # of a fixed name: what a kill leaves is written over
    partial.write_bytes(data)
    sync(partial)
    partial.replace(path)


def _short(count: int) -> str:
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.3g} {letter}"
    return str(count)
