"""The share of a training step that is spent waiting for its data, by the number of worker processes.

Run it with `python benchmarks/training_input.py`. JPEG photographs of 640 x 480 pixels are made, read
from disk, decoded, augmented and tokenized as a run does, while the same model trains on them. The
variants take turns over several rounds. On a machine with few cores the workers and the model share
them, so waiting turns into slower steps: the images per second say what it is worth.
"""

import argparse
import json
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from PIL import Image
from training_speed import RESULTS, small_config, small_model

from dmedge.data.records import DatasetConfig
from dmedge.data.tables import read_folder
from dmedge.data.tokenizer import Tokenizer, train_tokenizer
from dmedge.data.transforms import Preprocess
from dmedge.environment import host_facts, tool_versions
from dmedge.training.loader import Waiting, batches
from dmedge.training.objective import Objective
from dmedge.training.optimizer import make_optimizer
from dmedge.training.record_source import RecordSource

PICTURES, SIZE = 256, (640, 480)
WORDS = ("red", "green", "blue", "house", "tree", "street", "lake", "dog", "cloud", "bridge")


def write_pictures(folder: Path) -> None:
    """Smooth random photographs with a caption each."""
    rng = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    rows = ["image,language,text"]
    for number in range(PICTURES):
        pixels = rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)
        image = Image.fromarray(pixels).resize(SIZE, Image.Resampling.BICUBIC)
        image.save(folder / "images" / f"{number}.jpg", quality=90)
        rows.append(f"{number}.jpg,en,a {' '.join(rng.choice(WORDS, 4))} {number}")
    (folder / "captions.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")


def measure(folder: Path, workers: int, steps: int, batch: int) -> dict[str, float]:
    """Waiting share and images per second of one short run, its first two steps aside."""
    config = small_config(batch_size=batch, dataset=DatasetConfig(path=str(folder)), data="folder")
    data = read_folder(config.dataset)
    tokenizer = Tokenizer(folder / "tokenizer.model", config.model.context_length)
    source = RecordSource(data, tokenizer, Preprocess(size=config.model.image_size), config)
    torch.manual_seed(0)
    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    bare = Objective(small_model(config), config)
    objective, optimizer = accelerator.prepare(bare, make_optimizer(bare, config))
    waiting = Waiting()
    with closing(batches(source, 0, steps + 2, workers=workers, waiting=waiting)) as stream:
        for number, item in enumerate(stream):
            encoded = objective(item.to(accelerator.device))
            optimizer.zero_grad(set_to_none=True)
            accelerator.backward(torch.stack(list(bare.joint(encoded).values())).sum())
            optimizer.step()
            if number == 1:  # the workers stand
                waiting.waited_s = waiting.worked_s = 0.0
    seconds = waiting.waited_s + waiting.worked_s
    return {"waiting_share": waiting.share, "images_per_s": batch * steps / seconds}


def main() -> None:
    """Measure, print and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=(0, 1, 2), help="worker processes [default: 0 1 2]")
    parser.add_argument("--steps", type=int, default=8, help="of one run [default: %(default)s]")
    parser.add_argument("--batch", type=int, default=64, help="pictures of a step [default: %(default)s]")
    parser.add_argument("--rounds", type=int, default=3, help="[default: %(default)s]")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the JSON [default: benchmarks/results]")
    parser.add_argument("--json", action="store_true", help="print JSON in place of the table")
    options = parser.parse_args()
    torch.set_num_threads(1)
    samples: dict[int, list[dict[str, float]]] = {workers: [] for workers in options.workers}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "pictures"
        write_pictures(folder)
        texts = [f"a {word} {number}" for word in WORDS for number in range(PICTURES)]
        train_tokenizer(texts, folder / "tokenizer.model", 600)
        for _ in range(options.rounds):
            for workers in options.workers:
                samples[workers].append(measure(folder, workers, options.steps, options.batch))
    rows: list[dict[str, Any]] = [
        {
            "workers": workers,
            "waiting_share": float(np.median([sample["waiting_share"] for sample in found])),
            "images_per_s": float(np.median([sample["images_per_s"] for sample in found])),
        }
        for workers, found in samples.items()
    ]
    settings = {"steps": options.steps, "batch": options.batch, "rounds": options.rounds, "pictures": list(SIZE)}
    versions = {name: tool_versions().get(name) for name in ("dmedge", "torch", "pillow")}
    found = {"host": host_facts(), "versions": versions, "settings": settings, "rows": rows}
    text = json.dumps(found, indent=2)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "training_input.json").write_text(text + "\n", encoding="utf-8")
    if options.json:
        print(text)
        return
    print(f"{found['host']['cpu']}: JPEG of {SIZE[0]} x {SIZE[1]} pixels, batch {options.batch}")
    for row in rows:
        print(f"{row['workers']} workers: waiting {row['waiting_share']:5.1%}, {row['images_per_s']:7.1f} images/s")


if __name__ == "__main__":
    main()
