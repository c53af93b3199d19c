"""Contact sheets: what the embedded pictures look like."""

import unicodedata
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dmedge.data.emoji import EmojiPack
from dmedge.data.splits import is_unseen_emoji
from dmedge.data.summary import style_role
from dmedge.errors import DataError

EmojiSplit = Literal["all", "seen", "unseen"]
SPLITS: tuple[EmojiSplit, ...] = get_args(EmojiSplit)

_INK, _SOFT, _LINE = (28, 32, 38), (116, 124, 136), (226, 229, 234)
_ROLE_INK = {"train": (37, 99, 235), "validation": (180, 83, 9), "test": (21, 128, 61)}
_MARGIN, _TITLE = 28, 64
_TILE = 64  # pixels; the pack's tiles are drawn a third larger


@dataclass(frozen=True, slots=True)
class _Page:
    image: Image.Image
    draw: ImageDraw.ImageDraw

    def text(
        self, xy: tuple[float, float], text: str, size: int, ink: tuple[int, int, int] = _INK, at: str = "la"
    ) -> None:
        # Pillow's own font has no accented letters.
        plain = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
        self.draw.text(xy, plain, fill=ink, font=ImageFont.load_default(size), anchor=at)


def draw_sheet(pack: EmojiPack, style: str | None, split: EmojiSplit, count: int | None) -> Image.Image:
    """A sheet of one style, or of all styles side by side.

    Args:
        count: emoji to show at most [default: 96 of one style, 18 of all].

    Raises:
        DataError: unknown style, or no emoji to show.
    """
    rows = choose_emoji(pack, split, count or (18 if style is None else 96), style)
    which = {"all": "", "seen": " that are trained on", "unseen": " that are never trained on"}[split]
    if style is None:
        return comparison_sheet(pack, rows, f"{len(rows)} emoji{which}, in all styles")
    return style_sheet(pack, style, rows, f"{style} ({style_role(style)} style): {len(rows)} emoji{which}")


def choose_emoji(pack: EmojiPack, split: EmojiSplit, count: int, style: str | None = None) -> list[int]:
    """At most `count` emoji of a split, spread evenly over the pack's order and so over its groups.

    Args:
        style: choose only among the emoji that this style draws.

    Raises:
        DataError: unknown style.
    """
    drawn = np.ones(len(pack.emoji), bool) if style is None else pack.images(style)[1]
    fits = [
        i
        for i, emoji in enumerate(pack.emoji)
        if drawn[i] and (split == "all" or (split == "unseen") == is_unseen_emoji(emoji.hexcode))
    ]
    places = np.linspace(0, len(fits) - 1, min(count, len(fits))).round().astype(int)
    return [fits[place] for place in places]


def style_sheet(pack: EmojiPack, style: str, rows: list[int], title: str, columns: int = 12) -> Image.Image:
    """A grid of one style's pictures, each with its English name.

    Raises:
        DataError: unknown style, or no emoji to show.
    """
    images, _ = pack.images(style)
    width, height = 112, 112
    page = _page(columns * width, -(-len(rows) // columns) * height, title, rows)
    for place, row in enumerate(rows):
        y, x = divmod(place, columns)
        left, top = _MARGIN + x * width, _TITLE + y * height
        page.image.paste(_tile(images[row]), (left + (width - _TILE) // 2, top))
        for line, text in enumerate(_wrap(pack.emoji[row].name, width - 8, 2)):
            page.text((left + width / 2, top + _TILE + 6 + 15 * line), text, 12, _SOFT, "ma")
    return page.image


def comparison_sheet(pack: EmojiPack, rows: list[int], title: str) -> Image.Image:
    """One row per emoji, one column per style; a dash where a style does not draw it.

    Raises:
        DataError: no emoji to show.
    """
    label, width, height, head = 220, 100, 78, 48
    page = _page(label + len(pack.styles) * width, head + len(rows) * height, title, rows)
    for x, style in enumerate(pack.styles):
        centre, role = _MARGIN + label + x * width + width / 2, style_role(style)
        page.text((centre, _TITLE), style, 15, _INK, "ma")
        page.text((centre, _TITLE + 20), role, 12, _ROLE_INK[role], "ma")
        images, present = pack.images(style)
        for y, row in enumerate(rows):
            middle = _TITLE + head + y * height + height / 2
            if present[row]:
                page.image.paste(_tile(images[row]), (round(centre - _TILE / 2), round(middle - _TILE / 2)))
            else:
                page.draw.line([(centre - 5, middle), (centre + 5, middle)], fill=_LINE, width=2)
    for y, row in enumerate(rows):
        top = _TITLE + head + y * height
        page.draw.line([(_MARGIN, top), (page.image.width - _MARGIN, top)], fill=_LINE)
        lines = _wrap(pack.emoji[row].name, label - 24, 3)
        for line, text in enumerate(lines):
            page.text((_MARGIN, top + height / 2 + 18 * (line - (len(lines) - 1) / 2)), text, 14, _INK, "lm")
    return page.image


def _page(width: int, height: int, title: str, rows: list[int]) -> _Page:
    if not rows:
        raise DataError("no emoji to show; expected at least one; choose another style or split")
    image = Image.new("RGB", (width + 2 * _MARGIN, height + _TITLE + _MARGIN), "white")
    page = _Page(image, ImageDraw.Draw(image))
    page.text((_MARGIN, _MARGIN - 8), title, 20)
    return page


def _tile(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(pixels).resize((_TILE, _TILE), Image.Resampling.LANCZOS)


def _wrap(text: str, width: int, lines: int) -> list[str]:
    """Text in at most so many lines of so many pixels, at size 12 to 14; the last may end in an ellipsis."""
    font = ImageFont.load_default(13)
    wrapped: list[str] = []
    for word in text.split():
        longer = f"{wrapped[-1]} {word}" if wrapped else word
        if wrapped and font.getlength(longer) <= width:
            wrapped[-1] = longer
        else:
            wrapped.append(word)
    if len(wrapped) > lines:
        wrapped[lines - 1 :] = [" ".join(wrapped[lines - 1 :])]
    for i, line in enumerate(wrapped):
        while font.getlength(wrapped[i]) > width and len(line) > 1:
            line = line[:-1]
            wrapped[i] = f"{line.rstrip()}…"
    return wrapped
