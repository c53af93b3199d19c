"""The embedded pack: 1,914 emoji in nine art styles, named in 100 locales.

Built by `tools/build_emoji_pack.py`; sources, authors and licences are in `pack/ATTRIBUTION.md`.
"""

import json
import lzma
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache, cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dmedge.errors import DataError

PACK = Path(__file__).parent / "pack"
TRAIN_STYLES = ("noto", "noto-v1", "fluent-flat", "fluent", "fluent-3d", "fluent-mono", "flag-icons")
VALIDATION_STYLE = "fxemoji"
TEST_STYLE = "twemoji"


@dataclass(frozen=True, slots=True)
class Emoji:
    """One emoji; `name` is its English CLDR name, `group` and `subgroup` index the pack's labels."""

    hexcode: str
    char: str
    name: str
    group: int
    subgroup: int


@dataclass(frozen=True, slots=True, eq=False)
class Style:
    """One art style of the pack."""

    name: str
    atlas: Path
    present: NDArray[np.bool_]  # [n], which emoji the style draws
    licence: str
    package: str
    sha256: str


@dataclass(frozen=True, eq=False)
class EmojiPack:
    """Emoji, art and names. Everything is aligned with `emoji`, and read from disk when first asked for."""

    emoji: tuple[Emoji, ...]
    groups: tuple[str, ...]
    subgroups: tuple[str, ...]
    locales: tuple[str, ...]
    style_table: Mapping[str, Style]
    sources: tuple[Mapping[str, str], ...]
    tile: int  # pixels
    columns: int  # tiles in a row of an atlas

    @property
    def styles(self) -> tuple[str, ...]:
        """Names of the art styles."""
        return tuple(self.style_table)

    @cached_property
    def _lines(self) -> dict[str, str]:
        text = lzma.decompress((PACK / "annotations.jsonl.xz").read_bytes()).decode()
        return dict(zip(self.locales, text.split("\n"), strict=True))

    def _texts(self, locale: str) -> dict[str, Any]:
        return _parse(self._lines[_known(locale, self.locales, "locale")])

    def names(self, locale: str) -> tuple[str | None, ...]:
        """CLDR name of every emoji in one locale; None where the locale has none.

        Raises:
            DataError: the pack does not hold the locale.
        """
        return tuple(self._texts(locale)["names"])

    def keywords(self, locale: str) -> tuple[tuple[str, ...], ...]:
        """CLDR keywords of every emoji in one locale, the name itself left out.

        Raises:
            DataError: the pack does not hold the locale.
        """
        return tuple(tuple(words) for words in self._texts(locale)["keywords"])

    @cached_property
    def _patterns(self) -> dict[str, list[str]]:
        patterns: dict[str, list[str]] = json.loads((PACK / "list_patterns.json").read_text("utf-8"))
        return patterns

    def joined(self, words: Sequence[str], locale: str) -> str:
        """Words as a list in the way of one locale, such as "a, b, and c"; "" for no words.

        Source: Unicode Technical Standard 35, part 2, section "List Patterns".

        Raises:
            DataError: the pack does not hold the locale.
        """
        pair, start, middle, end = self._patterns[_known(locale, self.locales, "locale")]
        if len(words) < 2:
            return "".join(words)
        *before, last = words
        if len(before) == 1:
            return _filled(pair, before[0], last)
        text = _filled(end, before[-1], last)
        for word in before[-2:0:-1]:
            text = _filled(middle, word, text)
        return _filled(start, before[0], text)

    def images(self, style: str) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """Tiles of one style on white, uint8 [n, tile, tile, 3], and which are drawn, bool [n].

        Tiles of emoji that the style does not draw are white. Both arrays are shared and read-only.

        Raises:
            DataError: the pack does not hold the style, or its file was changed.
        """
        return _tiles(self.style_table[_known(style, self.styles, "style")], self.tile, self.columns)


def _filled(pattern: str, first: str, rest: str) -> str:
    before, between, after = re.split(r"\{[01]\}", pattern)
    return f"{before}{first}{between}{rest}{after}"


def _known(wanted: str, known: tuple[str, ...], kind: str) -> str:
    if wanted not in known:
        close = get_close_matches(wanted, known, n=1)
        hint = f"did you mean {close[0]!r}" if close else f"expected one of {', '.join(known)}"
        raise DataError(f"unknown {kind} {wanted!r}; {hint}; `dmedge data info` lists them all")
    return wanted


@lru_cache(maxsize=128)
def _parse(line: str) -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads(line)
    return parsed


@cache
def _tiles(style: Style, tile: int, columns: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    with Image.open(style.atlas) as image:
        atlas = np.asarray(image.convert("RGB"))
    count = int(style.present.sum())
    grid = atlas.reshape(-1, tile, columns, tile, 3).swapaxes(1, 2).reshape(-1, tile, tile, 3)
    if len(grid) < count:
        raise DataError(f"{style.atlas}: {len(grid)} tiles, expected {count}; reinstall dmedge")
    images = np.full((len(style.present), tile, tile, 3), 255, np.uint8)
    images[style.present] = grid[:count]
    images.setflags(write=False)
    return images, style.present


def _style(name: str, entry: Mapping[str, Any], count: int) -> Style:
    bits = np.frombuffer(bytes.fromhex(entry["present"]), np.uint8)
    present = np.unpackbits(bits)[:count].astype(bool)
    present.setflags(write=False)
    return Style(name, PACK / entry["atlas"], present, entry["licence"], entry["package"], entry["sha256"])


def _character(hexcode: str) -> str:
    return "".join(chr(int(code, 16)) for code in hexcode.split("-"))


@lru_cache(maxsize=1)
def load_pack() -> EmojiPack:
    """The pack that ships with dmedge.

    Raises:
        DataError: the pack's files are missing.
    """
    path = PACK / "index.json"
    if not path.exists():
        raise DataError(f"{path} is missing; reinstall dmedge, or run tools/build_emoji_pack.py in a checkout")
    index = json.loads(path.read_text("utf-8"))
    emoji = tuple(Emoji(code, _character(code), name, g, s) for code, name, g, s in index["emoji"])
    return EmojiPack(
        emoji=emoji,
        groups=tuple(index["groups"]),
        subgroups=tuple(index["subgroups"]),
        locales=tuple(index["locales"]),
        style_table={name: _style(name, entry, len(emoji)) for name, entry in index["styles"].items()},
        sources=tuple(index["sources"]),
        tile=index["tile"],
        columns=index["columns"],
    )
