"""Images per second of dmedge's training step beside a plain training loop of transformers, and of open_clip.

Run it with `python benchmarks/training_speed.py`. All train the same small CLIP with random weights
on the same tensors, in one process, with the same optimiser, precision and gradient clipping. They
take turns, so that noise hits all alike; the ratio is what carries over to other machines.
open_clip takes part where it can be imported.
"""

import argparse
import json
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from dmedge.environment import host_facts, tool_versions
from dmedge.evidence.latency import Case, Paired, paired_ratio
from dmedge.model.config import ModelConfig
from dmedge.model.dual import DualEncoder
from dmedge.training.average import Average
from dmedge.training.batch import TextChunk, TrainBatch
from dmedge.training.config import TowerConfig, TrainConfig
from dmedge.training.objective import Objective
from dmedge.training.optimizer import make_optimizer

RESULTS = Path(__file__).parent / "results"
VOCABULARY, START, END = 4000, 1, 2
IMAGE_SIZE, PATCH, IMAGE_LAYERS, TEXT_LAYERS, HEADS, WIDTH, LENGTH = 64, 8, 4, 2, 4, 128, 16
LEARNING_RATE, DECAY, CLIP_NORM = 1e-3, 0.05, 2.0
WARM_UP = 3  # steps of each before the clock runs
PARAMETER_SPREAD = 0.02  # models that differ by more are not the same configuration

Step = Callable[[], object]


@dataclass(frozen=True)
class Contender:
    """One way to train, ready to make steps."""

    name: str
    parameters: int
    step: Step


def small_config(**changes: Any) -> TrainConfig:
    """Settings under which dmedge computes the loss of CLIP and nothing else."""
    towers = TowerConfig(
        image="vit",
        image_size=IMAGE_SIZE,
        image_width=WIDTH,
        image_layers=IMAGE_LAYERS,
        image_heads=HEADS,
        patch_size=PATCH,
        text_width=WIDTH,
        text_layers=TEXT_LAYERS,
        text_heads=HEADS,
        context_length=LENGTH,
        embed_dim=WIDTH,
        concept_head=False,
        fusion="none",
    )
    settings: dict[str, Any] = {
        "learning_rate": LEARNING_RATE,
        "weight_decay": DECAY,
        "clip_norm": CLIP_NORM,
        "texts_per_image": 1,
        "contrastive_weight": 1.0,
        "label_smoothing": 0.0,
        "style_mixing": 0.0,
        "precision": "float32",
        "model": towers,
    }
    return TrainConfig(**settings | changes)


def small_model(config: TrainConfig) -> DualEncoder:
    """The small CLIP as dmedge builds it."""
    towers = {name: value for name, value in asdict(config.model).items() if name in ModelConfig.__dataclass_fields__}
    return DualEncoder(ModelConfig(vocab_size=VOCABULARY, classes=0, projection="linear-no-bias", **towers))


def random_batch(images: int) -> TrainBatch:
    """As many pictures, each with one text of 6 to 16 tokens."""
    torch.manual_seed(0)
    lengths = torch.randint(6, LENGTH + 1, (images, 1))
    place = torch.arange(LENGTH)
    ids = torch.randint(3, VOCABULARY, (images, LENGTH)).where(place < lengths, 0)
    ids[:, 0], mask = START, place < lengths
    ids[place == lengths - 1] = END
    key = torch.arange(images)
    pixels = torch.randint(0, 256, (images, IMAGE_SIZE, IMAGE_SIZE, 3), dtype=torch.uint8)
    return TrainBatch(pixels=pixels, key=key, chunks=(TextChunk(ids.int(), mask.int(), key),))


def dmedge_steps(batch: TrainBatch, has_average: bool) -> Contender:
    """The objective and optimiser of dmedge, driven by accelerate as its loop does."""
    config = small_config(batch_size=len(batch.key))
    torch.manual_seed(0)
    model = small_model(config)
    accelerator = Accelerator(cpu=True)
    bare = Objective(model, config)
    objective, optimizer = accelerator.prepare(bare, make_optimizer(bare, config))
    average = Average(model, config.ema_decay) if has_average else None
    objective.train()

    def step() -> None:
        with accelerator.autocast():
            encoded = objective(batch)
            local = [loss for name, loss in encoded.items() if name.startswith("local/")]
            loss = torch.stack([*bare.joint(encoded).values(), *local]).sum()
        optimizer.zero_grad(set_to_none=True)
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(objective.parameters(), CLIP_NORM)
        optimizer.step()
        if average is not None:
            average.update(model, 100)

    return Contender("dmedge, with weight average" if has_average else "dmedge", parameter_count(model), step)


def transformers_steps(batch: TrainBatch) -> Contender:
    """What a loop around `CLIPModel` does; it gets its pixels as normalised floats, dmedge as bytes."""
    from transformers import CLIPConfig, CLIPModel

    shared = {
        "hidden_size": WIDTH,
        "intermediate_size": 4 * WIDTH,
        "num_attention_heads": HEADS,
        "projection_dim": WIDTH,
        "hidden_act": "gelu",
    }
    vision = {"image_size": IMAGE_SIZE, "patch_size": PATCH, "num_hidden_layers": IMAGE_LAYERS}
    text = {"vocab_size": VOCABULARY, "max_position_embeddings": LENGTH, "num_hidden_layers": TEXT_LAYERS}
    ends = {"bos_token_id": START, "eos_token_id": END, "pad_token_id": 0}
    torch.manual_seed(0)
    config = CLIPConfig(vision_config=shared | vision, text_config=shared | text | ends, projection_dim=WIDTH)
    model = CLIPModel(config).train()
    chunk = batch.chunks[0]
    pixels = float_pixels(batch)
    ids, mask = chunk.ids.long(), chunk.mask.long()

    def loss() -> Tensor:
        found: Tensor = model(input_ids=ids, attention_mask=mask, pixel_values=pixels, return_loss=True).loss
        return found

    return Contender("transformers", parameter_count(model), plain_step(model, loss))


def open_clip_steps(batch: TrainBatch) -> Contender | None:
    """The step of open_clip's own training script without its mixed precision; None where it is not installed."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from open_clip import CLIP, ClipLoss  # type: ignore[import-not-found]
    except ImportError:
        return None
    vision = {"layers": IMAGE_LAYERS, "width": WIDTH, "head_width": WIDTH // HEADS}
    text = {"context_length": LENGTH, "vocab_size": VOCABULARY, "width": WIDTH, "heads": HEADS, "layers": TEXT_LAYERS}
    torch.manual_seed(0)
    model = CLIP(
        WIDTH,
        vision_cfg=vision | {"patch_size": PATCH, "image_size": IMAGE_SIZE},
        text_cfg=text | {"pool_type": "eos", "eos_id": END},
    ).train()
    criterion = ClipLoss()
    pixels, ids = float_pixels(batch), batch.chunks[0].ids.long()

    def loss() -> Tensor:
        found: Tensor = criterion(*model(pixels, ids))
        return found

    return Contender("open_clip", parameter_count(model), plain_step(model, loss))


def plain_step(model: nn.Module, loss: Callable[[], Tensor]) -> Step:
    """Forward, backward, clip, AdamW."""
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=LEARNING_RATE, weight_decay=DECAY, betas=(0.9, 0.98), fused=True
    )

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss().backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
        optimizer.step()

    return step


def float_pixels(batch: TrainBatch) -> Tensor:
    """Pixels as an image processor makes them: float [B, 3, H, W]."""
    return (batch.pixels.permute(0, 3, 1, 2).float() / 127.5 - 1).contiguous()


def parameter_count(model: nn.Module) -> int:
    """Number of weights."""
    return sum(parameter.numel() for parameter in model.parameters())


def take_turns(contenders: list[Contender], rounds: int) -> dict[str, np.ndarray[Any, np.dtype[np.int64]]]:
    """Nanoseconds per step, [rounds, 2] of each; a round goes through all and back."""
    for contender in contenders:
        for _ in range(WARM_UP):
            contender.step()
    found: dict[str, list[list[int]]] = {contender.name: [] for contender in contenders}
    for _ in range(rounds):
        for contender in contenders:
            found[contender.name].append([nanoseconds(contender.step)])
        for contender in reversed(contenders):
            found[contender.name][-1].append(nanoseconds(contender.step))
    return {name: np.array(samples, np.int64) for name, samples in found.items()}


def nanoseconds(step: Step) -> int:
    """Duration of one step."""
    start = time.perf_counter_ns()
    step()
    return time.perf_counter_ns() - start


def report(contenders: list[Contender], options: argparse.Namespace) -> dict[str, Any]:
    """Measure, and return all figures."""
    times = take_turns(contenders, options.rounds)
    rows = []
    for contender in contenders:
        mine = times[contender.name]
        row: dict[str, Any] = {
            "name": contender.name,
            "parameters": contender.parameters,
            "images_per_s": options.batch / (float(np.median(mine)) / 1e9),
        }
        for other in ("transformers", "open_clip"):
            if contender.name.startswith("dmedge") and other in times:
                # the time of the other over that of dmedge, i.e. how many times as many images dmedge trains on
                paired = Paired(Case("step", "train", (), ()), times[other], mine, is_warm=True)
                row[f"speed_over_{other}"] = asdict(paired_ratio(paired))
        rows.append(row)
    settings = {"batch": options.batch, "rounds": options.rounds, "threads": options.threads, "precision": "float32"}
    versions = {name: tool_versions().get(name) for name in ("dmedge", "torch", "transformers", "accelerate")}
    return {"device": "CPU", "host": host_facts(), "versions": versions, "settings": settings, "steps": rows}


def show(found: Mapping[str, Any]) -> None:
    """Print the figures for people."""
    settings, host = found["settings"], found["host"]
    print(f"CPU figures: {host['cpu']}, {settings['threads']} thread(s), float32, batch {settings['batch']}")
    for row in found["steps"]:
        line = f"{row['name']:28s} {row['parameters']:9,d} parameters {row['images_per_s']:8.1f} images/s"
        for key, ratio in row.items():
            if key.startswith("speed_over_"):
                other = key.removeprefix("speed_over_")
                line += f"  x{ratio['value']:.3f} of {other} ({ratio['low']:.3f} to {ratio['high']:.3f})"
        print(line)
    if all(row["name"] != "open_clip" for row in found["steps"]):
        print("open_clip cannot be imported here and takes no part; it needs torchvision")


def main() -> None:
    """Measure, print and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=64, help="pictures, each with one text [default: %(default)s]")
    parser.add_argument("--rounds", type=int, default=25, help="two steps of each in a round [default: %(default)s]")
    parser.add_argument("--threads", type=int, default=1, help="of torch [default: %(default)s]")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the JSON [default: benchmarks/results]")
    parser.add_argument("--json", action="store_true", help="print JSON in place of the table")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    batch = random_batch(options.batch)
    candidates = [
        dmedge_steps(batch, has_average=False),
        dmedge_steps(batch, has_average=True),
        transformers_steps(batch),
        open_clip_steps(batch),
    ]
    contenders = [contender for contender in candidates if contender is not None]
    for contender in contenders:
        spread = abs(contender.parameters / contenders[0].parameters - 1)
        if spread > PARAMETER_SPREAD:
            parser.error(
                f"{contender.name} has {spread:.1%} more or fewer parameters than dmedge; expected 2 % at most"
            )
    found = report(contenders, options)
    options.out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(found, indent=2)
    (options.out / "training_speed.json").write_text(text + "\n", encoding="utf-8")
    if options.json:
        print(text)
    else:
        show(found)


if __name__ == "__main__":
    main()
