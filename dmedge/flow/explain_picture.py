"""An explanation as one picture."""

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

from dmedge.evidence.attention import AttentionMap
from dmedge.flow.explain import SHOWN_PX, Explanation
from dmedge.flow.explain_tiles import (
    LEAST_TOP,
    ORDERS,
    PALETTE,
    curve_chart,
    even_shares,
    heat_tile,
    looker_tile,
    signed_tile,
)
from dmedge.flow.lettering import FAINT, INK, find_font, write_line

_GAP, _MARGIN, _TITLE, _CAPTION, _RULE, _CHART = 16, 24, 70, 46, 30, 220  # pixels
_WIDTH = 2 * _MARGIN + 4 * (SHOWN_PX + _GAP) - _GAP
_COLUMNS, _TOKEN_PX = 6, (_WIDTH - 2 * _MARGIN + _GAP) // 6 - _GAP


@dataclass(frozen=True, eq=False)
class Tile:
    """A picture and what stands below it."""

    image: Image.Image
    caption: str
    note: str = ""
    number: int | None = None  # of the token that it belongs to


def draw_explanation(found: Explanation) -> Image.Image:
    """Maps of the whole text, one map per token, and the curves.

    Tokens read in the direction of the text. One whose letters no font of this machine has is a number alone;
    `unwritten` says what it stands for.
    """
    maps, tokens = map_tiles(found), token_tiles(found)
    rows = [tokens[start : start + _COLUMNS] for start in range(0, len(tokens), _COLUMNS)]
    below = _MARGIN + _TITLE + SHOWN_PX + _CAPTION
    charts = below + (_RULE + len(rows) * (_TOKEN_PX + _CAPTION) if rows else 0)
    page = Image.new("RGB", (_WIDTH, charts + (_RULE + _CHART if found.curves else 0) + _MARGIN), "white")
    draw = ImageDraw.Draw(page)
    _write_heading(draw, found)
    _paste_row(page, maps, _MARGIN + _TITLE, SHOWN_PX, is_reversed=False)
    if rows:
        draw.line([(_MARGIN, below + 4), (_WIDTH - _MARGIN, below + 4)], (226, 229, 234))
    for number, row in enumerate(rows):
        y = below + _RULE + number * (_TOKEN_PX + _CAPTION)
        _paste_row(page, row, y, _TOKEN_PX, is_reversed=found.is_right_to_left)
    if found.curves:
        _paste_charts(page, draw, found, charts)
    return page


def map_tiles(found: Explanation) -> list[Tile]:
    """The picture, and the maps that are of the whole text."""
    tiles = [Tile(found.picture, "the picture", "as the model sees it")]
    if found.attention is not None:
        regions = even_shares(found.attention.regions)
        top = scale_top(found.attention)
        heat = heat_tile(found.picture, regions, found.grid, top)
        tiles.append(Tile(heat, "looked at, all tokens", f"full colour: {top:.1f} x an even share"))
        tiles.append(Tile(looker_tile(found.picture, found.attention), "looked at most by", "token by its number"))
    if found.gradient is not None:
        signed = signed_tile(found.picture, found.gradient, found.grid)
        tiles.append(Tile(signed, f"gradient of the {found.target}", "red for, blue against"))
    return tiles


def token_tiles(found: Explanation) -> list[Tile]:
    """One heat map per token, all on one scale."""
    seen = found.attention
    if seen is None:
        return []
    top = scale_top(seen)
    return [
        Tile(
            heat_tile(found.picture, even_shares(row), found.grid, top),
            plain_token(token),
            f"spread {spread:.2f}",
            number,
        )
        for number, (token, row, spread) in enumerate(zip(seen.tokens, seen.weights, seen.token_entropy, strict=True))
    ]


def scale_top(seen: AttentionMap) -> float:
    """What is full colour in every map of one text, in multiples of an even share."""
    return max(LEAST_TOP, float(even_shares(seen.weights).max()))


def plain_token(piece: str) -> str:
    """A token as a person reads it: without the marks that vocabularies set at the ends of words."""
    return piece.replace("\u2581", " ").removesuffix("</w>").strip() or "(space)"


def unwritten(found: Explanation) -> list[str]:
    """Lines for what no font of this machine can write: the text, and tokens by their numbers."""
    lines = [] if find_font(found.text, 12) else [f"text: {found.text}"]
    for tile in token_tiles(found):
        if not find_font(tile.caption, 12) and tile.number is not None:
            lines.append(f"token {tile.number + 1}: {tile.caption}")
    return lines


def summary(found: Explanation) -> str:
    """Probabilities in one line."""
    parts = [f"match {found.match:.3f}", *(f"{name} {share:.3f}" for name, share in found.classes)]
    rows, columns = found.grid
    return f"{', '.join(parts)}; {rows} x {columns} regions"


def _write_heading(draw: ImageDraw.ImageDraw, found: Explanation) -> None:
    wide = _WIDTH - 2 * _MARGIN
    font = find_font(found.text, 26)
    length = 0 if font is None else round(draw.textlength(" ".join(found.text.split()), font))
    start = _MARGIN + (max(0, wide - length) if font and found.is_right_to_left else 0)
    words = "tokens by their numbers" if font is None else found.text
    write_line(draw, (start, _MARGIN + 24), words, 26, wide)
    write_line(draw, (_MARGIN, _MARGIN + 50), summary(found), 13, wide, FAINT)


def _paste_row(page: Image.Image, tiles: Sequence[Tile], y: int, side: int, *, is_reversed: bool) -> None:
    for column, tile in enumerate(tiles):
        step = side + _GAP
        x = _WIDTH - _MARGIN - side - column * step if is_reversed else _MARGIN + column * step
        page.paste(tile.image.resize((side, side), Image.Resampling.LANCZOS), (x, y))
        _write_caption(ImageDraw.Draw(page), tile, (x, y), side)


def _write_caption(draw: ImageDraw.ImageDraw, tile: Tile, corner: tuple[int, int], side: int) -> None:
    x, y = corner
    draw.rectangle((x, y, x + side - 1, y + side - 1), outline=(226, 229, 234))
    start, below = x, y + side + 19
    if tile.number is not None:
        draw.rounded_rectangle((x, below - 14, x + 20, below + 3), 4, PALETTE[tile.number % len(PALETTE)])
        draw.text((x + 10, below - 5), str(tile.number + 1), "white", ImageFont.load_default(12), anchor="mm")
        start = x + 27
    if find_font(tile.caption, 15):
        write_line(draw, (start, below), tile.caption, 15, x + side - start)
    write_line(draw, (x, below + 18), tile.note, 12, side, FAINT)


def _paste_charts(page: Image.Image, draw: ImageDraw.ImageDraw, found: Explanation, y: int) -> None:
    wide = (_WIDTH - 2 * _MARGIN - _GAP) // 2
    for side, kind in enumerate(("deletion", "insertion")):
        chart = curve_chart(found.curves, kind, (wide, _CHART), curve_end(found))
        page.paste(chart, (_MARGIN + side * (wide + _GAP), y + _RULE))
    x = _MARGIN
    for name in found.curves:
        draw.line([(x, y + 14), (x + 18, y + 14)], ORDERS[name], 3)
        words = "random orders, mean and range" if name == "random" else f"order by {name}"
        write_line(draw, (x + 24, y + 18), words, 12, 220, INK)
        x += 38 + round(draw.textlength(words, ImageFont.load_default(12)))


def curve_end(found: Explanation) -> float:
    """Top of the axis of both charts: 1, or less where all probabilities are small."""
    highest = max(float(max(own.deletion.max(), own.insertion.max())) for own in found.curves.values())
    return next((end for end in (0.01, 0.1, 0.25, 0.5) if highest <= end), 1.0)
