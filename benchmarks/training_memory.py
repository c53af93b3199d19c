"""Peak memory of one training step as the batch grows, with and without what saves memory.

Run it with `python benchmarks/training_memory.py`. Every point is a process of its own: a small
model and its batch are made, one tiny step loads what is loaded once, then one step is made, and the
peak is what that step held beyond what was there before it. With cached gradients a batch is cut
into parts of 64 pictures. On a GPU it is the memory that torch allocated, else the resident memory,
with an allocator that returns large blocks when they are freed; the usual one keeps some, so that a
run without this setting (MALLOC_MMAP_THRESHOLD_) holds more.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from training_speed import RESULTS, random_batch, small_config, small_model

from dmedge.environment import host_facts, tool_versions
from dmedge.model.attention import Blocks
from dmedge.runtime.session import peak_resident_bytes, resident_bytes
from dmedge.training.batch import TrainBatch
from dmedge.training.curve import ACCENT, CARD, GRID, HUES, INK, MUTED
from dmedge.training.grad_cache import cached_backward
from dmedge.training.objective import Objective
from dmedge.training.optimizer import make_optimizer
from dmedge.training.summary import device_name

PART = 64  # pictures of one part
MMAP_BYTES = 1 << 16  # blocks from this size go back to the system when freed, on glibc: the peak is of what was needed
BATCHES = (64, 128, 256, 512, 1024)
VARIANTS = {  # name -> whether activations are computed again, whether gradients are cached
    "plain": (False, False),
    "gradient checkpointing": (True, False),
    "cached gradients": (False, True),
    "cached gradients and checkpointing": (True, True),
}
MEGABYTE = 1e6


def measure_step(variant: str, batch_size: int, device: torch.device) -> dict[str, Any]:
    """One step in this process: peak bytes beyond those before it, and its seconds."""
    recomputes, caches = VARIANTS[variant]
    config = small_config(batch_size=batch_size)
    torch.manual_seed(0)
    objective = Objective(small_model(config), config).to(device).train()
    optimizer = make_optimizer(objective, config)
    for module in objective.modules():
        if isinstance(module, Blocks):
            module.recomputes = recomputes

    def step(batch: TrainBatch) -> None:
        parts = -(-len(batch.key) // PART) if caches else 1
        losses = backward(objective, batch, parts)
        torch.nn.utils.clip_grad_norm_(objective.parameters(), config.clip_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        assert all(bool(torch.isfinite(loss)) for loss in losses.values())

    batch = random_batch(batch_size).to(device)
    step(random_batch(4).to(device))
    before = reset_peak(device)
    step(batch)
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else peak_resident_bytes()
    return {"variant": variant, "batch": batch_size, "peak_bytes": peak - before}


def backward(objective: Objective, batch: TrainBatch, parts: int) -> dict[str, Tensor]:
    """Gradients of one batch, cached where there are several parts."""
    if parts > 1:
        return cached_backward(
            objective, batch, parts, autocast=nullcontext, backward=Tensor.backward, no_sync=nullcontext
        )
    encoded = objective(batch)
    losses = objective.joint(encoded) | {name: loss for name, loss in encoded.items() if name.startswith("local/")}
    torch.stack(list(losses.values())).sum().backward()  # type: ignore[no-untyped-call]
    return losses


def reset_peak(device: torch.device) -> int:
    """Forget the peak until now, where the system can; return the bytes held now."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    clear = Path("/proc/self/clear_refs")
    if clear.exists():
        clear.write_text("5", encoding="ascii")  # the peak becomes what is resident now (man 5 proc)
    return resident_bytes()


def measure_all(batches: Sequence[int], device: str, threads: int) -> list[dict[str, Any]]:
    """All points, each in a fresh process."""
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": str(MMAP_BYTES), "OMP_NUM_THREADS": str(threads)}
    found = []
    for batch_size in batches:
        for variant in VARIANTS:
            command = [sys.executable, __file__, "--variant", variant, "--batches", str(batch_size), "--device", device]
            child = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
            if child.returncode:
                raise SystemExit(
                    f"{variant}, batch {batch_size}: the process ended with {child.returncode}\n{child.stderr}"
                )
            found.append(json.loads(child.stdout))
            print(f"{variant}, batch {batch_size}: done", file=sys.stderr)
    return found


def growth(points: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Peak of the largest batch over that of the smallest, per variant."""
    peaks = {name: [point["peak_bytes"] for point in points if point["variant"] == name] for name in VARIANTS}
    return {name: found[-1] / found[0] for name, found in peaks.items()}


def show(found: Mapping[str, Any], batches: Sequence[int]) -> None:
    """Print the figures for people."""
    what = "GPU memory allocated by torch" if found["device"] == "GPU" else "resident memory of the process"
    print(f"{found['device']} figures: {found['name']}; peak of one step in MB, {what}; float32")
    print(f"{'':36s}" + "".join(f"{f'batch {size}':>12s}" for size in batches) + f"{'growth':>9s}")
    for name in VARIANTS:
        points = [point for point in found["points"] if point["variant"] == name]
        row = "".join(f"{point['peak_bytes'] / MEGABYTE:12,.0f}" for point in points)
        print(f"{name:36s}{row}{found['growth'][name]:8.1f}x")


def draw(found: Mapping[str, Any], batches: Sequence[int], out: Path) -> None:
    """Draw memory over batch size, one line per variant."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, NullLocator

    figure = Figure(figsize=(8.0, 4.4), layout="constrained", facecolor=CARD)
    axis = figure.subplots()
    for name, colour in zip(VARIANTS, (HUES[1], HUES[2], ACCENT, HUES[0]), strict=True):
        peaks = [point["peak_bytes"] / MEGABYTE for point in found["points"] if point["variant"] == name]
        axis.plot(batches, peaks, color=colour, lw=2, marker="o", ms=5)
        label = f"{name}\n{peaks[-1]:,.0f} MB"
        axis.annotate(label, (batches[-1], peaks[-1]), (10, 0), textcoords="offset points", color=colour, va="center")
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    axis.set_xticks(batches, [str(size) for size in batches])
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    for edge in (axis.xaxis, axis.yaxis):
        edge.set_minor_locator(NullLocator())
    axis.set_facecolor(CARD)
    axis.grid(axis="y", color=GRID)
    axis.tick_params(colors=MUTED, length=0)
    for side, spine in axis.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(GRID)
    axis.set_xlim(batches[0] * 0.9, batches[-1] * 6)
    axis.set_xlabel("batch, pictures", color=MUTED, loc="left")
    axis.set_title("Peak memory of a training step, MB", loc="left", color=INK, fontweight="bold")
    subtitle = f"{found['device']}: {found['name']}, float32; parts of {PART} where gradients are cached"
    figure.supxlabel(subtitle, color=MUTED, fontsize=8, x=0.02, ha="left")
    figure.savefig(out, dpi=144)


def main() -> None:
    """Measure, print, and write JSON and a plot."""
    has_gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, nargs="+", default=BATCHES, help="sizes [default: 64 to 1024]")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if has_gpu else "cpu")
    parser.add_argument("--threads", type=int, default=1, help="of torch [default: %(default)s]")
    parser.add_argument(
        "--out", type=Path, default=RESULTS, help="folder of JSON and plot [default: benchmarks/results]"
    )
    parser.add_argument("--json", action="store_true", help="print JSON in place of the table")
    parser.add_argument("--variant", choices=tuple(VARIANTS), help="measure this one in this process, print its JSON")
    options = parser.parse_args()
    device, batches = torch.device(options.device), sorted(options.batches)
    if options.variant:
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", options.threads)))
        print(json.dumps(measure_step(options.variant, batches[0], device)))
        return
    points = measure_all(batches, options.device, options.threads)
    found = {
        "device": "GPU" if options.device == "cuda" else "CPU",
        "name": device_name(device),
        "host": host_facts(),
        "versions": {name: tool_versions().get(name) for name in ("dmedge", "torch")},
        "settings": {"part": PART, "threads": options.threads, "precision": "float32"},
        "growth": growth(points),
        "points": points,
    }
    options.out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(found, indent=2)
    (options.out / "training_memory.json").write_text(text + "\n", encoding="utf-8")
    draw(found, batches, options.out / "training_memory.png")
    if options.json:
        print(text)
    else:
        show(found, batches)


if __name__ == "__main__":
    main()
