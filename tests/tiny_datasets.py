"""A tiny data set in every format that dmedge reads: annotations from tests/fixtures/data, pictures made here."""

import io
import json
import shutil
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from dmedge.data.records import DatasetConfig

FIXTURES = Path(__file__).parent / "fixtures" / "data"
PICTURES = {
    "coco": [f"images/train2017/{number:012d}.jpg" for number in (9, 25, 30, 34)] + ["images/val2017/000000000139.jpg"],
    "flickr30k": [f"flickr30k-images/{name}.jpg" for name in ("1000092795", "10002456", "1000268201", "1007129816")],
    "vqa": [f"train2014/COCO_train2014_{number:012d}.jpg" for number in (262146, 458752, 524291)],
    "xm3600": [f"images/{key}.jpg" for key in ("000411001ff7dd4f", "00041ea5e4ff2ab9", "0009cd0e8a1ac9b1")],
    "table": ["cats/a.jpg", "b.jpg", "c.jpg"],
    "folder": ["images/cats/a.jpg", "images/b.jpg", "images/c.jpg"],
}
SAMPLES: list[dict[str, Any]] = [  # of two shards, the first three in the first
    {"key": "000", "txt": "a red square", "json": {"language": "en", "width": 6}, "cls": 1},
    {"key": "001", "json": {"caption": ["ein Quadrat", "a square"], "language": ["de", "en"]}, "cls": 0},
    {"key": "002", "txt": "un carré rouge", "json": {"language": "fr"}},
    {"key": "000", "json": {"text": "四角"}, "cls": 2},
    {"key": "part/001", "txt": "the last one"},
]


def jpeg(number: int = 0, size: tuple[int, int] = (6, 4)) -> bytes:
    """A small picture, another one for every number."""
    stream = io.BytesIO()
    Image.new("RGB", size, (10 * number % 256, 90, 200)).save(stream, "JPEG")
    return stream.getvalue()


def write_tar(path: Path, members: Sequence[tuple[str, bytes]]) -> Path:
    """A tar file with the given members."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
        for name, content in members:
            header = tarfile.TarInfo(name)
            header.size = len(content)
            archive.addfile(header, io.BytesIO(content))
    return path


def members_of(sample: Mapping[str, Any], image: bytes, suffix: str = "jpg") -> list[tuple[str, bytes]]:
    """One sample as the members of a shard."""
    members = [(f"{sample['key']}.{suffix}", image)]
    if "txt" in sample:
        members.append((f"{sample['key']}.txt", sample["txt"].encode()))
    if "json" in sample:
        members.append((f"{sample['key']}.json", json.dumps(sample["json"]).encode()))
    if "cls" in sample:
        members.append((f"{sample['key']}.cls", str(sample["cls"]).encode()))
    return members


def write_shards(folder: Path) -> Path:
    """SAMPLES as two shards."""
    for number, samples in enumerate((SAMPLES[:3], SAMPLES[3:])):
        members = [
            member for place, sample in enumerate(samples) for member in members_of(sample, jpeg(10 * number + place))
        ]
        write_tar(folder / f"train-{number:03d}.tar", members)
    return folder


def write_hub(folder: Path) -> Path:
    """A folder that `datasets` saved, with two splits."""
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "caption": datasets.List(datasets.Value("string")),
            "url": datasets.Value("string"),
            "lang": datasets.Value("string"),
            "label": datasets.ClassLabel(names=["cat", "dog"]),
        }
    )
    rows = {
        "image": [{"bytes": jpeg(number), "path": None} for number in range(3)],
        "caption": [["eine Katze", "noch eine"], ["a dog"], ["kato", " "]],
        "url": ["u0", "u1", "u2"],
        "lang": ["de", None, "eo"],
        "label": [0, 1, 0],
    }
    train = datasets.Dataset.from_dict(rows, features=features)
    datasets.DatasetDict({"train": train, "validation": train.select([1])}).save_to_disk(str(folder))
    return folder


def write_dataset(format: str, folder: Path, **settings: Any) -> DatasetConfig:
    """Write a tiny data set below `folder` and say how it is read."""
    folder.mkdir(parents=True, exist_ok=True)
    if format == "webdataset":
        path = str(write_shards(folder) / "train-{000..001}.tar")
    elif format == "huggingface":
        path = str(write_hub(folder))
        settings = {"max_bad_share": 0.5, **settings}
    else:
        shutil.copytree(FIXTURES / format, folder, dirs_exist_ok=True)
        for number, name in enumerate(PICTURES[format]):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(jpeg(number))
        path = str(folder / "annotations" if format == "coco" else folder)
    return DatasetConfig(path=path, **settings)
