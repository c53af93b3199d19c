"""Which picture of which package shows which emoji."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emoji_pack.sources import read_json
from emoji_pack.text import Base

_SHORTCODES = ("cldr", "emojibase", "github", "iamcal", "joypixels", "emojibase-legacy")


def code_key(hexcode: str) -> str:
    """Lower-case code points without variation selectors: sets disagree about writing them."""
    return "-".join(part for part in hexcode.lower().split("-") if part != "fe0f")


def squash(name: str) -> str:
    """A name reduced to lower-case letters and digits."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def slug(name: str) -> str:
    """A name the way iconify writes it: "woman’s boot" is "womans-boot"."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower().replace("’", "")).strip("-")


@dataclass(frozen=True, slots=True)
class IconSet:
    """One iconify set: SVG bodies, aliases, and the map from code point to icon name where there is one."""

    icons: Mapping[str, Mapping[str, Any]]
    aliases: Mapping[str, Mapping[str, Any]]
    by_code: Mapping[str, str]
    width: float
    height: float

    def __contains__(self, name: str) -> bool:
        return name in self.icons or name in self.aliases

    def svg(self, name: str) -> str:
        """The whole SVG of an icon or of an alias, mirrored where the alias says so."""
        mirrored = False
        while name in self.aliases:
            mirrored ^= bool(self.aliases[name].get("hFlip"))
            name = str(self.aliases[name]["parent"])
        icon = self.icons[name]
        left, top = icon.get("left", 0), icon.get("top", 0)
        width, height = icon.get("width", self.width), icon.get("height", self.height)
        body = icon["body"]
        if mirrored:
            body = f'<g transform="translate({2 * left + width} 0) scale(-1 1)">{body}</g>'
        return (
            '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
            f'viewBox="{left} {top} {width} {height}" width="{width}" height="{height}">{body}</svg>'
        )


def read_icons(folder: Path) -> IconSet:
    """The icons of one unpacked iconify package."""
    data = read_json(folder / "icons.json")
    by_code = {code_key(code): name for code, name in read_json(folder / "chars.json").items()}
    return IconSet(data["icons"], data.get("aliases", {}), by_code, data.get("width", 16), data.get("height", 16))


def other_names(icons: IconSet, code: str) -> Iterator[str]:
    """The icon name of a code point, then every alias of that icon."""
    name = icons.by_code.get(code)
    if name is not None:
        yield name
        yield from sorted(alias for alias, value in icons.aliases.items() if value["parent"] == name)


def match_by_code(base: Base, names: Mapping[str, str], icons: IconSet, by_code: Mapping[str, str]) -> dict[str, str]:
    """{hexcode: icon} by code point, or by English name for icons that have no code point (mirrored aliases)."""
    wanted = {code: by_code.get(code_key(code)) or slug(names[code]) for code in base.hexcodes}
    return {code: name for code, name in wanted.items() if name in icons}


def match_flags(base: Base, icons: IconSet) -> dict[str, str]:
    """{hexcode: icon} for a set of flags named by region code: "de-4x3", "gb-sct-4x3"."""
    found = {}
    for hexcode in base.hexcodes:
        codes = [int(code, 16) for code in hexcode.split("-")]
        region = "".join(chr(code - 0x1F1E6 + ord("a")) for code in codes if 0x1F1E6 <= code <= 0x1F1FF)
        tags = "".join(chr(code - 0xE0000) for code in codes if 0xE0020 < code < 0xE007F)
        name = f"{tags[:2]}-{tags[2:]}-4x3" if tags else f"{region}-4x3"
        if name in icons:
            found[hexcode] = name
    return found


def match_by_name(base: Base, names: Mapping[str, str], icons: IconSet, siblings: list[IconSet]) -> dict[str, str]:
    """{hexcode: icon} for a set without code points, by the names that sibling sets give the same code point."""
    found: dict[str, str] = {}
    taken: set[str] = set()
    for entry in base.entries:
        code = code_key(entry["hexcode"])
        wanted = [name for sibling in siblings for name in other_names(sibling, code)]
        wanted += [slug(names[entry["hexcode"]]), slug(entry["label"])]
        name = next((n for n in wanted if n in icons and n not in taken), None)
        if name is not None:
            found[entry["hexcode"]] = name
            taken.add(name)
    return found


def match_squashed(
    base: Base, names: Mapping[str, str], emojibase: Path, icons: IconSet, siblings: list[IconSet], table: Path
) -> dict[str, str]:
    """{hexcode: icon} for Firefox OS Emoji, whose names are squashed Unicode names, shortcodes or its own words.

    The hand-made `table` ({"skip": [...], "aliases": {icon: emoji}}) wins over every automatic match.
    """
    unicode_names = {code_key(k): v for k, v in read_json(emojibase / "meta/unicode-names.json").items()}
    shortcodes = [read_json(emojibase / f"en/shortcodes/{name}.json") for name in _SHORTCODES]
    ranks: defaultdict[str, dict[str, int]] = defaultdict(dict)
    for entry in base.entries:
        hexcode, code = entry["hexcode"], code_key(entry["hexcode"])
        spoken = [names[hexcode], entry["label"], unicode_names.get(code, "")]
        for codes in shortcodes:
            value = codes.get(hexcode, [])
            spoken += [value] if isinstance(value, str) else value
        spoken += [name for sibling in siblings for name in other_names(sibling, code)]
        for rank, name in enumerate(spoken):
            ranks[squash(name)].setdefault(hexcode, rank)
    manual = read_json(table)
    by_char = {code_key("-".join(f"{ord(c):x}" for c in e["emoji"])): e["hexcode"] for e in base.entries}
    found = {by_char[code_key("-".join(f"{ord(c):x}" for c in char))]: icon for icon, char in manual["aliases"].items()}
    used = set(found.values()) | set(manual["skip"])
    for icon in sorted(set(icons.icons) - used):
        candidates = ranks.get(squash(icon), {})
        if candidates:
            found.setdefault(min(candidates, key=lambda code: (candidates[code], code)), icon)
    return found
