"""A query and what it found, as one picture."""

import shutil
import subprocess
from functools import lru_cache
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from dmedge.data.transforms import Preprocess
from dmedge.flow.gallery import Gallery
from dmedge.flow.search import SearchResult

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

_TILE, _GAP, _MARGIN, _TITLE, _CAPTION = 112, 16, 20, 56, 44  # pixels
_COLUMNS = 8
_LONGEST = 400  # letters of a text that are looked at
_INK, _FAINT = (20, 24, 32), (108, 116, 132)


def draw_strip(result: SearchResult, gallery: Gallery) -> Image.Image:
    """The query above its matches, best first, each with its score and name."""
    columns = min(_COLUMNS, max(4, len(result.matches)))
    rows = -(-len(result.matches) // columns)
    width = 2 * _MARGIN + columns * (_TILE + _GAP) - _GAP
    page = Image.new("RGB", (width, 2 * _MARGIN + _TITLE + rows * (_TILE + _CAPTION + _GAP) - _GAP), "white")
    draw = ImageDraw.Draw(page)
    _write(draw, (_MARGIN, _MARGIN + 18), result.query, 22, width - 2 * _MARGIN)
    _write(draw, (_MARGIN, _MARGIN + 40), f"in {gallery.name}", 12, width - 2 * _MARGIN, _FAINT)
    for place, match in enumerate(result.matches):
        x = _MARGIN + place % columns * (_TILE + _GAP)
        y = _MARGIN + _TITLE + place // columns * (_TILE + _CAPTION + _GAP)
        page.paste(_square(gallery.images[match.index]), (x, y))
        _write(draw, (x, y + _TILE + 18), f"{match.rank}.  {match.score:.3f}", 12, _TILE, _FAINT)
        _write(draw, (x, y + _TILE + 36), match.item.name, 13, _TILE)
    return page


def _square(found: Any) -> Image.Image:
    picture = found if isinstance(found, Image.Image) else Image.fromarray(found)
    return Image.fromarray(Preprocess(_TILE)(picture))


def _write(
    draw: ImageDraw.ImageDraw, start: tuple[int, int], text: str, size: int, width: int, ink: tuple[int, ...] = _INK
) -> None:
    """Write as much of `text` as fits on one line, whose baseline begins at `start`."""
    line = " ".join(text[:_LONGEST].split())
    font, line = _font_for(line, size)
    if draw.textlength(line, font) > width:
        while line and draw.textlength(f"{line}...", font) > width:
            line = line[:-1]
        line += "..."
    draw.text(start, line, ink, font, anchor="ls")


def _font_for(text: str, size: int) -> tuple[Font, str]:
    """A font that has every letter of `text`; where the machine has none, the text in escapes."""
    if text.isascii():
        return ImageFont.load_default(size), text
    for file in _font_files("".join(sorted(set(text) - {" "}))):
        try:
            return ImageFont.truetype(file, size), text
        except OSError:  # colour bitmaps come in one size only
            continue
    return ImageFont.load_default(size), text.encode("ascii", "backslashreplace").decode()


@lru_cache(maxsize=64)
def _font_files(letters: str) -> tuple[str, ...]:
    """Font files with all `letters`, plain sans-serif ones first, as far as fontconfig knows them."""
    program = shutil.which("fc-list")
    if program is None:
        return ()
    pattern = f":charset={' '.join(f'{ord(letter):x}' for letter in letters)}"
    listed = subprocess.run([program, pattern, "file"], capture_output=True, text=True, check=False, timeout=30)
    files = [line.strip().removesuffix(":") for line in listed.stdout.splitlines() if line.strip()]
    return tuple(sorted(files, key=lambda file: ("Regular" not in file, "Sans" not in file, file)))
