"""A query and what it found, as one picture."""

from typing import Any

from PIL import Image, ImageDraw

from dmedge.data.transforms import Preprocess
from dmedge.flow.gallery import Gallery
from dmedge.flow.lettering import FAINT, write_line
from dmedge.flow.search import SearchResult

_TILE, _GAP, _MARGIN, _TITLE, _CAPTION = 112, 16, 20, 56, 44  # pixels
_COLUMNS = 8


def draw_strip(result: SearchResult, gallery: Gallery) -> Image.Image:
    """The query above its matches, best first, each with its score and name."""
    columns = min(_COLUMNS, max(4, len(result.matches)))
    rows = -(-len(result.matches) // columns)
    width = 2 * _MARGIN + columns * (_TILE + _GAP) - _GAP
    page = Image.new("RGB", (width, 2 * _MARGIN + _TITLE + rows * (_TILE + _CAPTION + _GAP) - _GAP), "white")
    draw = ImageDraw.Draw(page)
    write_line(draw, (_MARGIN, _MARGIN + 18), result.query, 22, width - 2 * _MARGIN)
    write_line(draw, (_MARGIN, _MARGIN + 40), f"in {gallery.name}", 12, width - 2 * _MARGIN, FAINT)
    for place, match in enumerate(result.matches):
        x = _MARGIN + place % columns * (_TILE + _GAP)
        y = _MARGIN + _TITLE + place // columns * (_TILE + _CAPTION + _GAP)
        page.paste(_square(gallery.images[match.index]), (x, y))
        write_line(draw, (x, y + _TILE + 18), f"{match.rank}.  {match.score:.3f}", 12, _TILE, FAINT)
        write_line(draw, (x, y + _TILE + 36), match.item.name, 13, _TILE)
    return page


def _square(found: Any) -> Image.Image:
    picture = found if isinstance(found, Image.Image) else Image.fromarray(found)
    return Image.fromarray(Preprocess(_TILE)(picture))
