"""Emoji list, groups, names and keywords."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emoji_pack.sources import read_json

COMPONENTS = 2  # emojibase group of skin tones and hair parts, which are no emoji of their own
MIN_COVERAGE = 0.98  # share of the emoji that a locale must name


@dataclass(frozen=True, slots=True)
class Base:
    """The emoji of the pack, in emojibase order."""

    entries: tuple[dict[str, Any], ...]
    groups: tuple[str, ...]
    subgroups: tuple[str, ...]

    @property
    def hexcodes(self) -> tuple[str, ...]:
        """Code points of every emoji, as emojibase writes them."""
        return tuple(entry["hexcode"] for entry in self.entries)


def read_base(emojibase: Path) -> Base:
    """Base emoji (no skin tone variants), their groups and subgroups renumbered without gaps."""
    data = [e for e in read_json(emojibase / "en/data.json") if e.get("group", COMPONENTS) != COMPONENTS]
    messages = read_json(emojibase / "en/messages.json")
    entries, labels = [dict(entry) for entry in data], {}
    for field in ("group", "subgroup"):
        used = sorted({entry[field] for entry in entries})
        names = {message["order"]: message["key"] for message in messages[f"{field}s"]}
        labels[field] = tuple(names[order] for order in used)
        for entry in entries:
            entry[field] = used.index(entry[field])
    return Base(tuple(entries), labels["group"], labels["subgroup"])


def plain(char: str) -> str:
    """An emoji without variation selectors, which is how CLDR keys it."""
    return char.replace("\ufe0f", "")


def read_annotations(full: Path, derived: Path, locale: str) -> dict[str, Any]:
    """CLDR annotations of one locale by plain emoji; full entries win over derived ones."""
    merged: dict[str, Any] = {}
    for path, key in ((derived, "annotationsDerived"), (full, "annotations")):
        file = path / key / locale / "annotations.json"
        if file.exists():
            merged |= read_json(file)[key].get("annotations", {})
    return merged


def read_locales(base: Base, full: Path, derived: Path) -> dict[str, dict[str, list[Any]]]:
    """{locale: {"names": [...], "keywords": [[...], ...]}}, aligned with `base`, for every well covered locale."""
    locales = {}
    for folder in sorted((full / "annotations").iterdir()):
        found = read_annotations(full, derived, folder.name)
        rows = [found.get(plain(entry["emoji"]), {}) for entry in base.entries]
        names = [(row.get("tts") or [None])[0] for row in rows]
        if sum(name is not None for name in names) < MIN_COVERAGE * len(names):
            continue
        keywords = [
            [word for word in dict.fromkeys(row.get("default", [])) if word != name]
            for row, name in zip(rows, names, strict=True)
        ]
        locales[folder.name] = {"names": names, "keywords": keywords}
    doubled = [char for char, n in Counter(base.hexcodes).items() if n > 1]
    assert not doubled, doubled
    return locales


def read_list_patterns(misc: Path, locales: Iterable[str]) -> dict[str, list[str]]:
    """{locale: [pair, start, middle, end]}, the patterns of a plain list such as "a, b, and c"."""
    patterns = {}
    for locale in locales:
        tables = read_json(misc / "main" / locale / "listPatterns.json")["main"][locale]["listPatterns"]
        standard = tables["listPattern-type-standard"]
        patterns[locale] = [standard[key] for key in ("2", "start", "middle", "end")]
    return patterns
