"""Runs on records that take a second: pictures of one colour each, and captions that name it in two languages.

Run as a program it dies by SIGKILL at a chosen step, as a run does when its machine goes down.
"""

import csv
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from PIL import Image

from dmedge.artifact import Artifact
from dmedge.data.records import DatasetConfig
from dmedge.training import loop
from dmedge.training import train as stage
from dmedge.training.config import TowerConfig, TrainConfig
from tests.tiny_training import dying

COLOURS: Mapping[str, tuple[str, tuple[int, int, int]]] = {  # in English -> in German, and how it looks
    "red": ("rot", (210, 40, 40)),
    "green": ("grün", (40, 170, 60)),
    "blue": ("blau", (40, 70, 210)),
    "yellow": ("gelb", (230, 210, 50)),
    "white": ("weiß", (245, 245, 245)),
    "black": ("schwarz", (15, 15, 15)),
}
SIZE = 16
TOWERS = TowerConfig(
    image_size=SIZE, image_width=4, text_width=16, text_layers=1, text_heads=2, context_length=16, embed_dim=8
)

LEARNS: dict[str, Any] = {  # enough for six colours
    "steps": 60,
    "batch_size": 12,
    "eval_every": 60,
    "save_every": 60,
    "learning_rate": 5e-3,
    "ema_decay": 0.8,
    "augment": 0.2,
    "text_noise": 0.0,
    "subword_sampling": 0.0,
    "style_mixing": 0.0,
}


def record_config(data: str, dataset: DatasetConfig, **changes: Any) -> TrainConfig:
    """Settings for records, at a hundredth of the usual size."""
    settings: dict[str, Any] = {
        "data": data,
        "dataset": dataset,
        "steps": 4,
        "fusion_steps": 0,
        "batch_size": 4,
        "texts_per_image": 2,
        "vocab_size": 400,
        "contrastive_weight": 1.0,
        "warmup_steps": 2,
        "precision": "float32",
        "eval_every": 4,
        "save_every": 2,
        "trackers": (),
        "model": TOWERS,
    }
    return TrainConfig(**settings | changes)


def train_on_records(config: TrainConfig, out: Path) -> Artifact:
    """Train on one thread, since sums over threads depend on their number."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return stage.train(config, out)
    finally:
        torch.set_num_threads(threads)


def write_picture(path: Path, colour: str, seed: int) -> None:
    """A small picture of one colour, no two alike."""
    noise = np.random.default_rng(seed).integers(-12, 13, (SIZE, SIZE, 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((np.array(COLOURS[colour][1]) + noise).clip(0, 255).astype(np.uint8)).save(path)


def write_colours(
    folder: Path, pictures: int = 60, *, first: int = 0, broken: Sequence[int] = (), has_labels: bool = True
) -> DatasetConfig:
    """A folder of captioned pictures, each with a caption in English and one in German; some are no pictures."""
    names = list(COLOURS)
    (folder / "images").mkdir(parents=True)
    with (folder / "captions.csv").open("w", encoding="utf-8", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(["image", "language", "text", *(["label"] if has_labels else [])])
        for number in range(first, first + pictures):
            name, colour = f"{number:03d}.png", names[number % len(names)]
            write_picture(folder / "images" / name, colour, number)
            if number in broken:
                (folder / "images" / name).write_bytes(b"no picture")
            label = [colour] if has_labels else []
            rows.writerow([name, "en", f"a {colour} square", *label])
            rows.writerow([name, "de", f"ein Quadrat in {COLOURS[colour][0]}", *label])
    return DatasetConfig(path=str(folder))


def write_questions(folder: Path, questions: int = 60) -> DatasetConfig:
    """VQA in its original format, both splits: which colour a picture has, or whether it has a certain one."""
    names = list(COLOURS)
    for split, first in (("train", 0), ("val", questions)):
        asked, answered = [], []
        for number in range(first, first + questions):
            colour, other = names[number // 2 % len(names)], names[number // 12 % len(names)]
            write_picture(folder / f"{split}2014/COCO_{split}2014_{number:012d}.jpg", colour, number)
            answer = colour if number % 2 else "yes" if colour == other else "no"
            text = "What colour is it?" if number % 2 else f"Is it {other}?"
            asked.append({"question_id": number, "image_id": number, "question": text})
            answers = [{"answer": answer, "answer_id": person} for person in range(1, 11)]
            answered.append({"question_id": number, "image_id": number, "answers": answers})
        subset = f"{split}2014"
        _write_json(
            folder / f"v2_OpenEnded_mscoco_{subset}_questions.json", {"data_subtype": subset, "questions": asked}
        )
        _write_json(folder / f"v2_mscoco_{subset}_annotations.json", {"data_subtype": subset, "annotations": answered})
    return DatasetConfig(path=str(folder))


def write_coco(folder: Path, pictures: int = 40) -> DatasetConfig:
    """COCO in its original layout, both splits: pictures of two colours, which are their classes, two captions each."""
    names = list(COLOURS)
    for split, first in (("train", 0), ("val", pictures)):
        part = f"{split}2017"
        images, captions, instances = [], [], []
        for number in range(first, first + pictures):
            colour, other = names[number % len(names)], names[number // 6 % len(names)]
            name = f"{number:012d}.jpg"
            write_picture(folder / part / name, colour, number)
            images.append({"id": number, "file_name": name})
            texts = (f"a {colour} square", f"a square with {other} in it, number {number}")
            captions += [{"image_id": number, "id": 2 * number + i, "caption": text} for i, text in enumerate(texts)]
            of_picture = {names.index(colour), names.index(other)}
            instances += [{"image_id": number, "category_id": place + 1} for place in sorted(of_picture)]
        categories = [{"id": place + 1, "name": name} for place, name in enumerate(names)]
        (folder / "annotations").mkdir(exist_ok=True)
        _write_json(folder / f"annotations/captions_{part}.json", {"images": images, "annotations": captions})
        _write_json(folder / f"annotations/instances_{part}.json", {"categories": categories, "annotations": instances})
    return DatasetConfig(path=str(folder))


def write_flickr30k(folder: Path, pictures: int = 40) -> DatasetConfig:
    """Flickr30k with the Karpathy split: of every five pictures three are of "train", one of "val", one of "test"."""
    names, images = list(COLOURS), []
    for number in range(pictures):
        colour, name = names[number % len(names)], f"{number:06d}.jpg"
        write_picture(folder / "flickr30k-images" / name, colour, number)
        split = ("train", "val", "test", "train", "train")[number % 5]
        sentences = [{"raw": f"a {colour} square, number {number}"}, {"raw": f"square {number} is {colour}"}]
        images.append({"filename": name, "split": split, "sentences": sentences})
    _write_json(folder / "dataset_flickr30k.json", {"images": images})
    return DatasetConfig(path=str(folder))


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")


def killed_config(folder: Path) -> TrainConfig:
    """Settings of the run that is killed: chance in the towers, in the texts and in the pictures."""
    weights = {"match_weight": 0.5, "class_weight": 0.5}
    return record_config("folder", DatasetConfig(path=str(folder)), steps=10, save_every=4, eval_every=5, **weights)


if __name__ == "__main__":
    where, data, count = sys.argv[1:]
    with mock.patch.object(loop, "train_step", dying(loop.train_step, int(count))):
        train_on_records(killed_config(Path(data)), Path(where))
