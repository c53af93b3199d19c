"""Build dmedge/data/pack from pinned npm packages: tiles, names, keywords, licences.

    pip install resvg_py pillow numpy
    python tools/build_emoji_pack.py --cache ~/.cache/dmedge-npm

The same inputs and library versions give the same bytes. Fetching uses `npm pack`; nothing else reaches the network.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import lzma
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from emoji_pack.icons import code_key, match_by_code, match_by_name, match_flags, match_squashed, read_icons
from emoji_pack.notices import write_notices
from emoji_pack.render import COLUMNS, TILE, draw_all, write_atlas
from emoji_pack.sources import SOURCES, fetch
from emoji_pack.text import Base, read_base, read_list_patterns, read_locales

TOOLS = Path(__file__).parent
PACK = TOOLS.parent / "dmedge/data/pack"
QUALITY = 90  # WebP; the whole pack must stay under 13.5 MB
STYLES = ("noto", "noto-v1", "fluent-flat", "fluent", "fluent-3d", "fluent-mono", "flag-icons", "fxemoji", "twemoji")


def pictures_by_style(base: Base, names: Mapping[str, str], roots: Mapping[str, Path]) -> dict[str, dict[int, Any]]:
    """{style: {emoji index: SVG text or image file}}."""
    iconify = {style: read_icons(roots[style]) for style in STYLES if style != "fluent-3d"}
    siblings = [iconify["noto"], iconify["twemoji"]]
    found: dict[str, dict[str, str]] = {
        "flag-icons": match_flags(base, iconify["flag-icons"]),
        "noto-v1": match_by_name(base, names, iconify["noto-v1"], siblings),
        "fxemoji": match_squashed(
            base,
            names,
            roots["emojibase"],
            iconify["fxemoji"],
            [*siblings, iconify["fluent-flat"]],
            TOOLS / "emoji_pack/fxemoji_aliases.json",
        ),
    }
    for style in ("noto", "twemoji", "fluent-flat", "fluent", "fluent-mono"):
        keyed = "fluent-flat" if style == "fluent" else style  # the gradient set has the same names, but no codes
        found[style] = match_by_code(base, names, iconify[style], iconify[keyed].by_code)
    place = {hexcode: i for i, hexcode in enumerate(base.hexcodes)}
    pictures: dict[str, dict[int, Any]] = {
        style: {place[h]: iconify[style].svg(name) for h, name in found[style].items()} for style in found
    }
    files = {code_key(path.stem): path for path in sorted((roots["fluent-3d"] / "assets").glob("*.webp"))}
    # What the package holds beyond Microsoft's own repository (flags, couples, families) has no stated origin.
    pictures["fluent-3d"] = {place[h]: files[code_key(h)] for h in found["fluent-flat"] if code_key(h) in files}
    return pictures


def write_annotations(locales: Mapping[str, Any], path: Path) -> None:
    """One JSON line per locale, xz-compressed."""
    lines = [
        json.dumps({"locale": tag, **texts}, ensure_ascii=False, separators=(",", ":"))
        for tag, texts in locales.items()
    ]
    path.write_bytes(lzma.compress("\n".join(lines).encode(), preset=9 | lzma.PRESET_EXTREME))


def write_list_patterns(patterns: Mapping[str, list[str]], path: Path) -> None:
    """A JSON object with one line per locale."""
    lines = [f"{json.dumps(tag)}: {json.dumps(row, ensure_ascii=False)}" for tag, row in patterns.items()]
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n", "utf-8")


def style_entry(style: str, tiles: Mapping[int, Any], emoji_count: int, atlas: Path) -> dict[str, Any]:
    """What the index says of one style; `present` packs one bit per emoji, the first in the highest bit."""
    present = np.zeros(emoji_count, bool)
    present[sorted(tiles)] = True
    source = next(s for s in SOURCES if s.key == style)
    return {
        "atlas": atlas.name,
        "count": len(tiles),
        "present": np.packbits(present).tobytes().hex(),
        "sha256": hashlib.sha256(atlas.read_bytes()).hexdigest(),
        "licence": source.licence,
        "package": f"{source.package}@{source.version}",
    }


def main() -> None:
    """Fetch, draw, pack."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, required=True, help="folder for npm tarballs; fetched when missing")
    parser.add_argument("--out", type=Path, default=PACK, help=f"folder to replace [default: {PACK}]")
    parser.add_argument("--jobs", type=int, default=2, help="drawing processes")
    args = parser.parse_args()
    args.cache.mkdir(parents=True, exist_ok=True)
    roots = {source.key: fetch(source, args.cache) for source in SOURCES}

    base = read_base(roots["emojibase"])
    locales = read_locales(base, roots["cldr"], roots["cldr-derived"])
    names = dict(zip(base.hexcodes, locales["en"]["names"], strict=True))
    pictures = pictures_by_style(base, names, roots)

    shutil.rmtree(args.out, ignore_errors=True)
    args.out.mkdir(parents=True)
    write_annotations(locales, args.out / "annotations.jsonl.xz")
    write_list_patterns(read_list_patterns(roots["cldr-misc"], locales), args.out / "list_patterns.json")
    styles = {}
    for style in STYLES:
        tiles = draw_all(pictures[style], args.jobs)
        atlas = args.out / f"{style}.webp"
        write_atlas(tiles, atlas, QUALITY)
        styles[style] = style_entry(style, tiles, len(base.entries), atlas)
        print(f"{style}: {len(tiles)} emoji, {atlas.stat().st_size:,} bytes", flush=True)
    index = {
        "tile": TILE,
        "columns": COLUMNS,
        "groups": base.groups,
        "subgroups": base.subgroups,
        "emoji": [[e["hexcode"], names[e["hexcode"]], e["group"], e["subgroup"]] for e in base.entries],
        "locales": list(locales),
        "styles": styles,
        "sources": [
            {"package": s.package, "version": s.version, "integrity": s.integrity, "licence": s.licence, "use": s.use}
            for s in SOURCES
        ],
    }
    text = json.dumps(index, ensure_ascii=False, separators=(",", ":"))
    (args.out / "index.json").write_text(text.replace(',["', ',\n["') + "\n", "utf-8")
    write_notices(args.out, TOOLS / "emoji_pack/licenses", roots)
    print(f"{args.out}: {sum(f.stat().st_size for f in args.out.rglob('*') if f.is_file()):,} bytes")


if __name__ == "__main__":
    main()
