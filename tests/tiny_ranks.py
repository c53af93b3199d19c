"""Training runs of several processes, to be started by torchrun; see `start` and the two jobs of the program.

"kill FOLDER" trains until one process dies by SIGKILL, which takes the others with it. "train FOLDER" continues that
run, makes those of `CASES`, and notes in FOLDER/notes.json what else only several processes can show.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from accelerate.state import AcceleratorState
from PIL import Image
from torch import Tensor, nn

from dmedge.data.records import DatasetConfig
from dmedge.errors import ConfigError
from dmedge.training import loop
from dmedge.training.config import TrainConfig
from dmedge.training.emoji_materials import concept_model
from dmedge.training.engine import make_accelerator
from dmedge.training.loop import Run, new_run, run_steps
from dmedge.training.run_log import RunLog
from tests.tiny_training import TOWERS, WORDS, dying, tiny_batcher, tiny_config, tiny_train

CALM: dict[str, Any] = {"augment": 0.0, "text_noise": 0.0, "subword_sampling": 0.0, "style_mixing": 0.0}
VIT = replace(TOWERS, image="vit", image_width=8, image_layers=1, image_heads=2, patch_size=16, fusion="none")
CASES: dict[str, dict[str, Any]] = {
    "infonce": {},
    "siglip-plain": {"loss": "siglip", "model": replace(VIT, concept_head=False)},
    "joint": {"data": "folder", "class_weight": 1.0, "augment": 1.0, "text_noise": 0.5},
    "fsdp-infonce": {"sharding": "fsdp"},
    "fsdp-siglip-plain": {
        **{
            "sharding": "fsdp",
            "loss": "siglip",
            "batch_size": 8,
            "grad_cache_parts": 4,
            "gradient_checkpointing": True,
        },
        "model": replace(VIT, concept_head=False),
    },
}
KILLED = "fsdp-infonce"
STEPS, KILLED_AT, ALLOCATION = 4, 3, 1 << 60  # the last are bytes that no machine has


def calm_config(**changes: Any) -> TrainConfig:
    """Settings of a run without noise, whose rows have nothing to do with each other but in the losses."""
    settings = {"model": VIT, "steps": STEPS, "save_every": 2, "eval_every": STEPS, "learning_rate": 1e-3, **CALM}
    return tiny_config(**settings | changes)


def case_config(name: str, folder: Path) -> TrainConfig:
    """Settings of one of `CASES`; `write_records` has been called for `folder`."""
    changes = CASES[name]
    if name == "joint":
        records = DatasetConfig(path=str(folder / "records"))
        changes = changes | {
            **{"dataset": records, "validation": records},
            "model": replace(VIT, concept_head=False, fusion="concatenation"),
        }
    return calm_config(**changes)


def write_records(folder: Path) -> None:
    """Write twelve pictures with a caption and a class each below `folder`.

    One caption, so that no picture comes up twice in a batch: on one rank it could be classified with the other's text.
    """
    pictures = folder / "records" / "images"
    pictures.mkdir(parents=True)
    rows = ["image,text,language,label"]
    for number, word in enumerate(WORDS):
        Image.new("RGB", (48, 48), (20 * number, 90, 255 - 20 * number)).save(pictures / f"{word}.png")
        rows.append(f"{word}.png,{'big ' * (number % 4)}{word},en,{number % 3}")
    (folder / "records" / "captions.csv").write_text("\n".join(rows), encoding="utf-8")


def start(job: str, folder: Path, processes: int = 2) -> subprocess.CompletedProcess[str]:
    """Start this program in as many processes and wait for them."""
    command = [sys.executable, "-W", "error::FutureWarning", "-m", "torch.distributed.run", "--standalone"]
    command += [f"--nproc-per-node={processes}", "-m", "tests.tiny_ranks", job, str(folder)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "error::FutureWarning"}
    return subprocess.run(command, capture_output=True, check=False, text=True, env=environment, timeout=300)


# A run by hand


def open_run(folder: Path, config: TrainConfig) -> Run:
    """A run on the tiny data, as the stage makes it, whose parts a test can reach."""
    folder.mkdir(parents=True, exist_ok=True)
    AcceleratorState._reset_state(reset_partial_state=False)  # as the stage does
    accelerator = make_accelerator(config)
    with accelerator.main_process_first():
        batcher = tiny_batcher(folder, config)
    steps, model = config.steps, concept_model(batcher)
    return new_run(
        model, batcher, lambda model: {}, config=config, steps=steps, accelerator=accelerator, folder=folder / "states"
    )


def go_on(run: Run) -> list[dict[str, Any]]:
    """Train to the end; returns the rows of the log."""
    with RunLog(run.store.folder.parent / "log", run.accelerator, run.config, step=run.step) as log:
        run_steps(run, log)
    return log.rows


@contextmanager
def memory_for(model: nn.Module, pictures: int, where: str) -> Iterator[list[int]]:
    """Have torch's own allocator refuse more pictures at once than that, going "forward" or "backward".

    Yields the numbers of pictures that were tried, one for each time that they were encoded to train on.
    """
    tried: list[int] = []

    def refuse(gradient: Tensor) -> None:
        torch.empty(ALLOCATION, dtype=torch.uint8)

    def hook(module: nn.Module, inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...]) -> None:
        tried.append(len(inputs[0]))
        if len(inputs[0]) > pictures and where == "forward":
            refuse(outputs[0])
        if len(inputs[0]) > pictures and outputs[0].requires_grad:
            outputs[0].register_hook(refuse)  # type: ignore[no-untyped-call]

    handle = model.register_forward_hook(hook)
    try:
        yield tried
    finally:
        handle.remove()


# The program


def refusal(config: TrainConfig) -> str:
    """How a configuration is refused here."""
    try:
        make_accelerator(config)
    except ConfigError as error:
        return str(error)
    return ""


def parts_found(folder: Path, where: str) -> dict[str, Any]:
    """What a run of eight pictures comes to when one picture fits into the memory of each of two processes."""
    run = open_run(folder, calm_config(find_batch_size=True, steps=2, batch_size=8))
    with memory_for(run.model.image, 1, where):
        rows = go_on(run)
    return {"parts": run.parts, "rows": [[row["loss"], row["grad_norm"]] for row in rows]}


def main(job: str, folder: Path) -> None:
    """What each process does."""
    torch.set_num_threads(1)
    if job == "kill":
        is_mortal = os.environ["RANK"] == "1"
        step = dying(loop.train_step, KILLED_AT if is_mortal else STEPS)
        with mock.patch.object(loop, "train_step", step):
            tiny_train(folder / "killed", case_config(KILLED, folder))
        return
    tiny_train(folder / "killed", case_config(KILLED, folder))
    for name in CASES:
        tiny_train(folder / name, case_config(name, folder))
    notes = {
        "odd": refusal(calm_config(batch_size=7)),
        "few": refusal(calm_config(batch_size=2)),
        "parts": {where: parts_found(folder / f"parts-{where}", where) for where in ("forward", "backward")},
    }
    (folder / f"notes-{os.environ['RANK']}.json").write_text(json.dumps(notes), encoding="utf-8")


def rows_of(log: Path) -> list[dict[str, Any]]:
    """Every line of the metrics of a run."""
    return [json.loads(line) for line in (log / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def curve_of(rows: Iterable[dict[str, Any]], name: str = "loss") -> Tensor:
    """One number of every row."""
    return torch.tensor([row[name] for row in rows], dtype=torch.float64)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
