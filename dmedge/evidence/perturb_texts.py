"""What people do to a query, at five strengths, in every script.

Letters are handled with the marks that they carry: a mark never loses its letter, and no text is empty.
Where a script has nothing that could change, such as capitals in Thai, the text stays as it is.
Source: Hendrycks and Dietterich 2019, arXiv:1903.12261, for the five strengths.
"""

import math
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache

import numpy as np

from dmedge.evidence.strengths import Levels, level

TextPerturbation = Callable[[str, str, int, np.random.Generator], str]

EDITS: Levels = (0.05, 0.10, 0.15, 0.20, 0.30)  # of the letters, one at least
CHANGED: Levels = (0.2, 0.4, 0.6, 0.8, 1.0)  # of what could change, one at least: words in capitals, marks dropped
TYPED: Levels = (0.8, 0.6, 0.45, 0.3, 0.15)  # of the letters, two at least
TIMES: Levels = (2, 4, 8, 16, 32)  # as long as it was
SWITCHED: Levels = (0.2, 0.35, 0.5, 0.65, 0.8)  # of the words, on average

BLOCK = 32  # code points: common letters of a script are seldom beside rare ones
WITHOUT_REPLACEMENT = ("CJK", "TANGUT", "NUSHU", "KHITAN")  # nobody hits a neighbour of thousands of characters
MARKED_SCRIPTS = ("LATIN", "GREEK", "CYRILLIC")  # elsewhere marks are vowels, not ornaments
STROKES = str.maketrans("đĐłŁøØħĦŧŦı", "dDlLoOhHtTi")  # typed so without the keyboard, though Unicode knows no mark
DOTTED = ("az", "tr")  # both i and ı have a capital
TO_UPPER, TO_LOWER = str.maketrans("iı", "İI"), str.maketrans("İI", "iı")


def misspell(text: str, language: str, strength: int, rng: np.random.Generator) -> str:
    """Neighbouring letters swapped, letters dropped, and replaced by others of the same script."""
    cells = split_cells(text)
    letters = sum(map(_is_letter, cells))
    share = level(EDITS, strength)
    for draws in rng.random((letters, 3))[: math.ceil(share * letters)]:
        _misspell_once(cells, *draws)
    return "".join(cells)


def change_case(text: str, language: str, strength: int, rng: np.random.Generator) -> str:
    """Words in capitals; those that have capitals only in small letters."""
    words, is_dotted = text.split(" "), language.split("-")[0] in DOTTED

    def changed(word: str) -> str:
        upper = (word.translate(TO_UPPER) if is_dotted else word).upper()
        return upper if word != upper else (word.translate(TO_LOWER) if is_dotted else word).lower()

    return " ".join(_change_some(words, [changed(word) for word in words], strength, rng))


def drop_diacritics(text: str, language: str, strength: int, rng: np.random.Generator) -> str:
    """Latin, Greek and Cyrillic letters without the marks on them, as on a keyboard that lacks them."""
    cells = split_cells(text)
    return "".join(_change_some(cells, [_without_marks(cell) for cell in cells], strength, rng))


def cut_short(text: str, language: str, strength: int, rng: np.random.Generator) -> str:
    """What has been typed so far; no chance in it."""
    cells = split_cells(text.strip())
    return "".join(cells[: max(2, math.ceil(level(TYPED, strength) * len(cells)))]).rstrip() or text


def draw_out(text: str, language: str, strength: int, rng: np.random.Generator) -> str:
    """The text, and its own words over and over in any order: past what a model reads at the greatest strength."""
    words = text.split()
    times = int(level(TIMES, strength))
    more = [words[i] for _ in range(times - 1) for i in rng.permutation(len(words))]
    return " ".join([text, *more])


# Text, language tag, strength from 1 to 5 and the only source of chance, to text
TEXT_PERTURBATIONS: Mapping[str, TextPerturbation] = {
    "typos": misspell,
    "case": change_case,
    "diacritics": drop_diacritics,
    "short": cut_short,
    "long": draw_out,
}


def switch_code(text: str, lookup: Callable[[str], str | None], strength: int, rng: np.random.Generator) -> str:
    """A run of words in another language, as those who speak both mix them.

    The run takes the place of as large a part of the text as it is of the other: the first half of one for
    the first half of the other. A text of one word is replaced as a whole, with a chance equal to the share.

    Args:
        lookup: what the text says in the other language; None where that is not known, and nothing changes.
    """
    share, chance, place = level(SWITCHED, strength), *rng.random(2)
    words, other = text.split(), (lookup(text) or "").split()
    run = math.floor(share * len(words) + chance)
    if not run or not other:
        return text
    start = int(place * (len(words) - run + 1))
    scale = len(other) / len(words)
    first = min(math.floor(start * scale), len(other) - 1)
    last = max(first + 1, math.ceil((start + run) * scale))
    return " ".join([*words[:start], *other[first:last], *words[start + run :]])


def split_cells(text: str) -> list[str]:
    """Letters with the marks and joiners that follow them; `"".join` gives the text back."""
    cells: list[str] = []
    for character in text:
        if cells and (unicodedata.category(character)[0] == "M" or character in "\u200c\u200d"):
            cells[-1] += character
        else:
            cells.append(character)
    return cells


def _misspell_once(cells: list[str], where: float, which: float, what: float) -> None:
    """Change `cells`, by three uniform numbers: at which letter, in which of three ways, to which letter."""
    places = [i for i, cell in enumerate(cells) if _is_letter(cell)]
    place = places[int(where * len(places))]
    others = neighbours(cells[place][0])
    can_swap = place + 1 in places and cells[place] != cells[place + 1]
    ways = [way for way, can in (("swap", can_swap), ("drop", len(places) > 1), ("replace", bool(others))) if can]
    way = ways[int(which * len(ways))] if ways else ""
    if way == "swap":
        cells[place], cells[place + 1] = cells[place + 1], cells[place]
    elif way == "drop":
        del cells[place]
    elif way == "replace":
        cells[place] = others[int(what * len(others))] + cells[place][1:]


@lru_cache(maxsize=4096)
def neighbours(letter: str) -> str:
    """Other letters of the same script and case that stand near it in Unicode; "" for ideographs.

    Of a Hangul syllable these are syllables with the same beginning.
    """
    script, category = _script(letter), unicodedata.category(letter)
    if script.startswith(WITHOUT_REPLACEMENT):
        return ""
    start = ord(letter) // BLOCK * BLOCK
    near = map(chr, range(start, start + BLOCK))
    return "".join(c for c in near if c != letter and unicodedata.category(c) == category and _script(c) == script)


def _is_letter(cell: str) -> bool:
    return unicodedata.category(cell[0])[0] == "L"


def _script(character: str) -> str:
    return unicodedata.name(character, "").split(" ")[0]


def _without_marks(cell: str) -> str:
    if not _script(cell[0]).startswith(MARKED_SCRIPTS) or not _is_letter(cell):
        return cell
    plain = "".join(c for c in unicodedata.normalize("NFD", cell) if unicodedata.category(c) != "Mn")
    return plain.translate(STROKES)


def _change_some(parts: Sequence[str], changed: Sequence[str], strength: int, rng: np.random.Generator) -> list[str]:
    """`parts`, a share of those that differ from `changed` taken from there; a greater strength takes them too."""
    different = [i for i, (before, after) in enumerate(zip(parts, changed, strict=True)) if before != after]
    order = rng.permutation(len(different))
    chosen = {different[i] for i in order[: math.ceil(level(CHANGED, strength) * len(different) - 1e-9)]}
    return [changed[i] if i in chosen else part for i, part in enumerate(parts)]
