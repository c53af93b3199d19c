"""Pictures to 48-pixel tiles on white, and tiles to one WebP atlas per style."""

from __future__ import annotations

import io
from collections.abc import Mapping
from multiprocessing import Pool
from pathlib import Path

import numpy as np
import resvg_py
from PIL import Image

TILE = 48  # pixels
DRAWN = 2 * TILE  # drawn at twice the size, then averaged 2 x 2
COLUMNS = 44


def on_white(image: Image.Image) -> Image.Image:
    """The picture centred on a white square of DRAWN pixels."""
    square = Image.new("RGBA", (DRAWN, DRAWN), "white")
    square.alpha_composite(image.convert("RGBA"), ((DRAWN - image.width) // 2, (DRAWN - image.height) // 2))
    return square.convert("RGB").resize((TILE, TILE), Image.Resampling.BOX)


def draw(picture: str | Path) -> bytes:
    """RGB bytes of one tile from SVG text or from an image file."""
    if isinstance(picture, Path):
        image = Image.open(picture).convert("RGBA")
        scale = DRAWN / max(image.size)
        size = (round(image.width * scale), round(image.height * scale))
        image = image.convert("RGBa").resize(size, Image.Resampling.LANCZOS).convert("RGBA")
    else:
        head = picture[: picture.index(">")]
        width, height = (float(head.split(f' {side}="')[1].split('"')[0]) for side in ("width", "height"))
        scale = DRAWN / max(width, height)
        png = resvg_py.svg_to_bytes(
            svg_string=picture, width=max(1, round(width * scale)), height=max(1, round(height * scale))
        )
        image = Image.open(io.BytesIO(bytes(png)))
    return on_white(image).tobytes()


def draw_all(pictures: Mapping[int, str | Path], jobs: int) -> dict[int, np.ndarray]:
    """{emoji index: uint8 [TILE, TILE, 3]}."""
    with Pool(jobs) as pool:
        drawn = pool.map(draw, list(pictures.values()), chunksize=16)
    shape = (TILE, TILE, 3)
    return {i: np.frombuffer(raw, np.uint8).reshape(shape) for i, raw in zip(pictures, drawn, strict=True)}


def write_atlas(tiles: Mapping[int, np.ndarray], path: Path, quality: int) -> None:
    """Write the tiles in emoji order, without gaps, in rows of COLUMNS."""
    rows = -(-len(tiles) // COLUMNS)
    atlas = np.full((rows * TILE, COLUMNS * TILE, 3), 255, np.uint8)
    for place, index in enumerate(sorted(tiles)):
        y, x = divmod(place, COLUMNS)
        atlas[y * TILE : (y + 1) * TILE, x * TILE : (x + 1) * TILE] = tiles[index]
    Image.fromarray(atlas).save(path, "WEBP", quality=quality, method=6)
