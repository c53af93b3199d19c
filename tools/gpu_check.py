"""Prove on a CUDA GPU what the training engine promises, and write the figures as JSON.

python tools/gpu_check.py --out gpu-check.json

Mixed precision, compilation, cached gradients, gradient checkpointing, DDP and FSDP, and a run that is continued: each
check has a verdict, its figures and its seconds. `--device cpu` takes the same way on a small model, to try the script.
Exit status: 0 all passed, 1 a check failed, 2 there is no GPU.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

if "--device=cpu" in sys.argv or "cpu" in sys.argv:
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # before torch looks; accelerate takes a GPU wherever there is one

import torch
from accelerate import __version__ as accelerate_version
from accelerate.state import AcceleratorState
from torch import Tensor

from dmedge import __version__
from dmedge.model.config import ModelConfig
from dmedge.model.dual import DualEncoder
from dmedge.training.batch import TextChunk, TrainBatch
from dmedge.training.config import TowerConfig, TrainConfig
from dmedge.training.engine import make_accelerator
from dmedge.training.loop import Run, backward, new_run, save_run, train_step

VOCAB, LENGTH, CONCEPTS = 512, 16, 4096
Figures = dict[str, Any]
Check = Callable[["Sizes"], Figures]  # its figures, with "passed" among them


@dataclass(frozen=True)
class Sizes:
    """How much work the checks are."""

    image_size: int
    width: int
    layers: int
    batch: int
    steps: int
    timed_steps: int
    growth: tuple[int, int]  # batches between which memory must stay


SIZES = {"cuda": Sizes(64, 256, 6, 128, 60, 30, (64, 1024)), "cpu": Sizes(32, 32, 1, 16, 8, 2, (16, 64))}
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@dataclass(frozen=True, eq=False)
class Shapes:
    """Batches whose pictures and texts show the same concept; each depends on its step alone."""

    sizes: Sizes
    batch_size: int
    images_per_epoch: int = CONCEPTS

    def batch(self, step: int, rank: int, world: int) -> TrainBatch:
        """The rows `rank::world` of the global batch of `step`."""
        random = torch.Generator().manual_seed(step)
        key = torch.randperm(CONCEPTS, generator=random)[: self.batch_size]
        side = self.sizes.image_size
        drawn = torch.randint(-20, 21, (len(key), side, side, 3), generator=random)
        bits = (key[:, None] >> torch.arange(12)) & 1  # a concept is twelve bits: four squares of a colour, or words
        squares = bits.reshape(-1, 2, 2, 3).repeat_interleave(side // 2, 1).repeat_interleave(side // 2, 2)
        pixels = (squares * 180 + 40 + drawn).clamp(0, 255).to(torch.uint8)[rank::world]
        key, bits = key[rank::world], bits[rank::world]
        ids = torch.zeros(len(key), LENGTH, dtype=torch.int32)
        ids[:, :12] = 2 * torch.arange(12) + bits + 1
        return TrainBatch(pixels, key, (TextChunk(ids, (ids > 0).int(), key),))


def open_run(sizes: Sizes, folder: Path | None = None, **settings: Any) -> Run:
    """A run from the same start, every time, in `folder` or without states of its own."""
    towers = TowerConfig(image="vit", concept_head=False, fusion="none")
    usual: dict[str, Any] = {"precision": "float32", "batch_size": sizes.batch, "steps": sizes.steps}
    usual |= {"warmup_steps": 5, "learning_rate": 5e-4, "schedule": "constant", "model": towers, "trackers": ()}
    config = TrainConfig(**usual | settings)
    AcceleratorState._reset_state(reset_partial_state=False)
    accelerator = make_accelerator(replace(config, sharding="none"))  # which lets one process shard, too
    torch.manual_seed(0)
    shape: dict[str, Any] = {"image": "vit", "image_size": sizes.image_size, "image_width": sizes.width}
    shape |= {"image_layers": sizes.layers, "text_width": sizes.width, "text_layers": sizes.layers, "fusion": "none"}
    model = DualEncoder(ModelConfig(vocab_size=VOCAB, classes=0, context_length=LENGTH, embed_dim=64, **shape))
    return new_run(
        model,
        Shapes(sizes, config.batch_size),
        lambda model: {},
        config=config,
        steps=config.steps,
        accelerator=accelerator,
        folder=folder or Path(tempfile.mkdtemp(prefix="gpu-check-")) / "states",
    )


def go_on(run: Run, steps: int | None = None) -> list[float]:
    """Train on; returns the loss of every step."""
    run.objective.train()
    rank, world = run.accelerator.process_index, run.accelerator.num_processes
    found = []
    for step in range(run.step, run.steps if steps is None else run.step + steps):
        found.append(train_step(run, run.source.batch(step, rank, world).to(run.accelerator.device))["loss"])
    return found


def gradients(run: Run, size: int, parts: int = 1) -> dict[str, Tensor]:
    """Gradients of a batch of `size` pictures."""
    run.optimizer.zero_grad(set_to_none=True)
    assert isinstance(run.source, Shapes)
    backward(run, replace(run.source, batch_size=size).batch(0, 0, 1).to(run.accelerator.device), parts)
    return {name: p.grad.detach().clone() for name, p in run.model.named_parameters() if p.grad is not None}


def peak_bytes(run: Run, size: int, parts: int = 1) -> int:
    """Most memory that `gradients` takes: of the GPU; on the CPU, what waits for the backward pass."""
    if DEVICE == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        gradients(run, size, parts)
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated()
    held, peak = 0, 0

    class Held:
        """A tensor that is counted until it is let go of."""

        def __init__(self, tensor: Tensor) -> None:
            self.tensor = tensor

    def add(size: int) -> None:
        nonlocal held, peak
        held += size
        peak = max(peak, held)

    def pack(tensor: Tensor) -> Held:
        box, size = Held(tensor), tensor.nelement() * tensor.element_size()
        add(size)
        weakref.finalize(box, add, -size)
        return box

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda box: box.tensor):
        gradients(run, size, parts)
    return peak


def furthest(mine: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> float:
    """Largest difference of two sets of tensors, as a share of the largest number among them."""
    assert mine.keys() == theirs.keys()
    apart = max(float((mine[name] - theirs[name]).abs().max()) for name in mine)
    return apart / max(float(tensor.abs().max()) for tensor in mine.values())


def apart(mine: Sequence[float], theirs: Sequence[float]) -> float:
    """Largest difference of two curves, as a share of the start."""
    return max(abs(a - b) for a, b in zip(mine, theirs, strict=True)) / abs(theirs[0])


def check_precision(sizes: Sizes) -> Figures:
    """Mixed precision trains, and comes close to float32."""
    curves = {"float32": go_on(open_run(sizes))}
    for name in ("bfloat16", "float16") if DEVICE == "cuda" else ("bfloat16",):
        curves[name] = go_on(open_run(sizes, precision=name))
    last = {name: sum(curve[-3:]) / 3 for name, curve in curves.items()}
    falls = all(last[name] < (0.7 if DEVICE == "cuda" else 1.0) * curve[0] for name, curve in curves.items())
    differs = {name: abs(value - last["float32"]) / curves["float32"][0] for name, value in last.items()}
    return {
        "passed": falls and max(differs.values()) < 0.1,
        "first_loss": curves["float32"][0],
        "last_losses": last,
        "apart": differs,
    }


def check_compile(sizes: Sizes) -> Figures:
    """Compiled towers have the same losses; how much faster they are is only told."""
    curves, steps_s = [], []
    for is_compiled in (False, True):
        run = open_run(sizes, compile=is_compiled)
        curves.append(go_on(run, 8))
        began = time.perf_counter()
        go_on(run, sizes.timed_steps)  # ends with a loss on the CPU, so the GPU has ended too
        steps_s.append((time.perf_counter() - began) / sizes.timed_steps)
    far = apart(curves[1], curves[0])
    return {"passed": far < 1e-3, "apart": far, "eager_step_s": steps_s[0], "speed_ratio": steps_s[0] / steps_s[1]}


def check_grad_cache(sizes: Sizes) -> Figures:
    """Parts have the gradients of the whole batch, and memory does not grow with the batch."""
    run, (small, large) = open_run(sizes), sizes.growth
    far = furthest(gradients(run, small, 4), gradients(run, small))
    peaks = {f"{size} whole": peak_bytes(run, size) for size in (small, 2 * small)}
    peaks |= {f"{size} in parts": peak_bytes(run, size, size // small) for size in (2 * small, large)}
    is_flat = peaks[f"{large} in parts"] < 1.5 * peaks[f"{small} whole"] < 1.5 * peaks[f"{2 * small} whole"]
    return {"passed": far < 1e-4 and is_flat, "apart": far, "peak_bytes": peaks}


def check_recomputing(sizes: Sizes) -> Figures:
    """Gradient checkpointing has the same gradients in less memory."""
    runs = [open_run(sizes, gradient_checkpointing=recomputes) for recomputes in (False, True)]
    far = furthest(gradients(runs[1], sizes.batch), gradients(runs[0], sizes.batch))
    kept, recomputed = (peak_bytes(run, sizes.batch) for run in runs)
    return {"passed": far < 1e-5 and recomputed < 0.8 * kept, "apart": far, "peak_bytes": [kept, recomputed]}


def check_ranks(sizes: Sizes, sharding: str) -> Figures:
    """As many processes as GPUs have the losses of one process with the same global batch."""
    processes = torch.cuda.device_count() if DEVICE == "cuda" else 2
    alone = go_on(open_run(sizes, steps=10))
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder) / "losses.json"
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        command += [__file__, f"--device={DEVICE}", f"--rank-of={sharding}", f"--out={found}"]
        done = subprocess.run(command, capture_output=True, check=False, text=True, timeout=240)
        if done.returncode:
            raise RuntimeError(f"torchrun ended with {done.returncode}: {done.stderr[-2000:]}")
        told = json.loads(found.read_text("utf-8"))
    far = apart(told["losses"], alone)
    return {"passed": far < 1e-4, "apart": far, "processes": processes, "backend": told["backend"]}


def be_rank(sizes: Sizes, sharding: str, out: Path) -> None:
    """What each process of `check_ranks` does."""
    run = open_run(sizes, steps=10, sharding=sharding)
    losses = go_on(run)
    if run.accelerator.is_main_process:
        backend = torch.distributed.get_backend()
        out.write_text(json.dumps({"losses": losses, "backend": backend}), encoding="utf-8")
    torch.distributed.destroy_process_group()


def check_resume(sizes: Sizes) -> Figures:
    """A run that is continued from a state ends where one without a break ends, in the precision of the device."""
    precision = "bfloat16" if DEVICE == "cuda" else "float32"
    whole = open_run(sizes, steps=8, precision=precision)
    expected = go_on(whole)
    with tempfile.TemporaryDirectory() as folder:
        stopped = open_run(sizes, Path(folder), steps=8, precision=precision)
        go_on(stopped, 4)
        save_run(stopped)
        resumed = open_run(sizes, Path(folder), steps=8, precision=precision)
    assert resumed.step == 4
    far_losses = apart(go_on(resumed), expected[4:])
    mine, theirs = (dict(run.model.named_parameters()) for run in (resumed, whole))
    far = furthest(mine, theirs)
    return {"passed": far_losses < 1e-3 and far < 1e-3, "apart": far_losses, "weights_apart": far}


CHECKS: dict[str, Check] = {
    "precision": check_precision,
    "compile": check_compile,
    "grad_cache": check_grad_cache,
    "gradient_checkpointing": check_recomputing,
    "ddp": lambda sizes: check_ranks(sizes, "none"),
    "fsdp": lambda sizes: check_ranks(sizes, "fsdp"),
    "resume": check_resume,
}


def judged(check: Check, sizes: Sizes) -> Figures:
    """The figures of one check, with its verdict and seconds."""
    began = time.perf_counter()
    try:
        figures = check(sizes)
    except Exception as error:  # one that breaks must not hide the others
        figures = {"passed": False, "error": f"{type(error).__name__}: {error}"}
    verdict = "pass" if figures.pop("passed") else "fail"
    return {"verdict": verdict, "seconds": round(time.perf_counter() - began, 1), **figures}


def machine() -> Figures:
    """What the figures were measured on."""
    return {
        "device": torch.cuda.get_device_name() if DEVICE == "cuda" else "cpu",
        "devices": torch.cuda.device_count() if DEVICE == "cuda" else 1,
        "versions": {
            **{"dmedge": __version__, "python": sys.version.split()[0], "torch": torch.__version__},
            **{"cuda": torch.version.cuda, "accelerate": accelerate_version},
        },
    }


def main() -> int:
    """Run the checks; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--out", type=Path, default=Path("gpu-check.json"), help="file to write")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="where to compute")
    parser.add_argument("--rank-of", choices=["none", "fsdp"], help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.device != DEVICE:
        print(
            "no CUDA GPU found; expected one; run this on a machine with a GPU, or with --device cpu", file=sys.stderr
        )
        return 2
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False  # float32 is the measure
    sizes = SIZES[DEVICE]
    if asked.rank_of:
        be_rank(sizes, asked.rank_of, asked.out)
        return 0
    report: Figures = {**machine(), "checks": {}}
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    for name, check in CHECKS.items():
        report["checks"][name] = figures = judged(check, sizes)
        print(f"{name:24}{figures['verdict']}  {figures['seconds']:6.1f} s  {figures.get('error', '')}".rstrip())
        asked.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return int(any(figures["verdict"] == "fail" for figures in report["checks"].values()))


if __name__ == "__main__":
    sys.exit(main())
