"""Small pictures of a gallery on sheets, which a program and a browser read alike."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, overload

import numpy as np
from PIL import Image

from dmedge.data.transforms import Preprocess
from dmedge.errors import DataError

COLUMNS = 32
PER_SHEET = COLUMNS * COLUMNS
FOLDER = "thumbnails"


def sheet_name(number: int) -> str:
    """File of one sheet, below the index."""
    return f"{FOLDER}/{number:04d}.webp"


def write_thumbnails(root: Path, images: Sequence[Any], tile: int, *, is_drawn: bool) -> None:
    """Write sheets of `tile` x `tile` thumbnails on white, row by row, 1,024 to a sheet.

    Args:
        root: of the index.
        images: pictures or uint8 [H, W, 3] arrays; one that cannot be read stays white.
        tile: pixels of a side.
        is_drawn: drawings are kept at a higher quality than photographs, since their edges show more.
    """
    (root / FOLDER).mkdir()
    fit = Preprocess(tile)
    for number, start in enumerate(range(0, len(images), PER_SHEET)):
        count = min(PER_SHEET, len(images) - start)
        sheet = np.full((-(-count // COLUMNS) * tile, min(count, COLUMNS) * tile, 3), 255, np.uint8)
        for place in range(count):
            y, x = (tile * step for step in divmod(place, COLUMNS))
            with suppress(DataError):
                sheet[y : y + tile, x : x + tile] = fit(_picture(images[start + place]))
        Image.fromarray(sheet).save(root / sheet_name(number), "WEBP", quality=90 if is_drawn else 80, method=4)


class Thumbnails(Sequence[Image.Image]):
    """The thumbnails of an index; the last sheet that was read is kept."""

    def __init__(self, root: Path, count: int, tile: int) -> None:
        self._root, self._count, self._tile = root, count, tile
        self._sheet: tuple[int, Image.Image] | None = None

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> Image.Image: ...
    @overload
    def __getitem__(self, index: slice) -> "list[Image.Image]": ...
    def __getitem__(self, index: int | slice) -> "Image.Image | list[Image.Image]":
        """One thumbnail, or a list of them."""
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(self._count))]
        number, place = divmod(index, PER_SHEET)
        if self._sheet is None or self._sheet[0] != number:
            with Image.open(self._root / sheet_name(number)) as sheet:
                self._sheet = number, sheet.convert("RGB")
        y, x = (self._tile * step for step in divmod(place, COLUMNS))
        return self._sheet[1].crop((x, y, x + self._tile, y + self._tile))


def _picture(found: Any) -> Image.Image:
    return found if isinstance(found, Image.Image) else Image.fromarray(found)
