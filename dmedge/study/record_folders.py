"""Some records as a folder of captioned pictures, which the stages of compression and timing read."""

import csv
import shutil
from pathlib import Path

import numpy as np

from dmedge.data.captions import COLUMNS
from dmedge.data.pictures import RecordImages
from dmedge.study.task import Pairs

MOST = 256  # pairs of a folder


def write_captions(pairs: Pairs, folder: Path) -> str:
    """The first pairs as images/ and captions.csv below `folder`, whose name is returned.

    Raises:
        DataError: a picture cannot be read.
    """
    assert isinstance(pairs.pictures, RecordImages)
    rows = np.flatnonzero(pairs.is_own)[:MOST].tolist()
    (folder / "images").mkdir(parents=True)
    names: dict[int, str] = {}
    with (folder / "captions.csv").open("w", encoding="utf-8", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(COLUMNS)
        for row in rows:
            number = int(pairs.picture[row])
            if number not in names:
                names[number] = _write_picture(pairs.pictures, number, folder / "images")
            table.writerow([names[number], pairs.languages[row], pairs.texts[row]])
    return str(folder)


def _write_picture(pictures: RecordImages, number: int, folder: Path) -> str:
    """The file or the bytes as they are, under a name without an ending: Pillow goes by the content."""
    name, encoded = f"{number:06d}", pictures.encoded(number)
    if isinstance(encoded, bytes):
        (folder / name).write_bytes(encoded)
    else:
        shutil.copyfile(encoded, folder / name)
    return name
