"""Attribution and licence texts that travel with the pack."""

from __future__ import annotations

import shutil
from pathlib import Path

from emoji_pack.sources import SOURCES

_HEAD = """# Attribution

The files in this folder are made from the npm packages below by `tools/build_emoji_pack.py`.
Full licence texts are in `licenses/`. The names of the authors are given for attribution only:
none of them endorses this project.

## Changes

- Art: every SVG (or WebP, for fluent-3d) was drawn at 96 pixels on a white background, scaled to 48 pixels,
  and packed into one lossy WebP atlas per style. Skin tone variants and pictures that are not one of the
  1,914 emoji were left out. So were the flags, couples and families of fluent-3d: the sets made from Microsoft's
  repository do not hold them, and the package does not name their origin.
- Text: the names and keywords of the locales that name at least 98 % of the emoji were joined
  (full annotations first, derived ones where those have none) and compressed. A keyword equal to the name was left out.
- Lists: of CLDR's list patterns the four of a plain list were kept, for the same locales.
- Emoji list: components (skin tones, hair) were left out; groups and subgroups were renumbered.

## Sources

"""
_ADDRESSES = {
    "Unicode-3.0": "https://www.unicode.org/license.txt",
    "MIT": "https://opensource.org/license/mit",
    "Apache-2.0": "https://www.apache.org/licenses/LICENSE-2.0",
    "CC-BY-4.0": "https://creativecommons.org/licenses/by/4.0/",
}


def write_notices(out: Path, texts: Path, roots: dict[str, Path]) -> None:
    """Write ATTRIBUTION.md and licenses/; texts that a package carries are taken from the package."""
    lines = []
    for source in SOURCES:
        owner = {"emojibase": "-emojibase", "flag-icons": "-flag-icons"}.get(source.key, "-fluent")
        text = f"{source.licence}{owner if source.licence == 'MIT' else ''}.txt"
        lines.append(
            f"- **{source.package} {source.version}**: {source.use}. {source.authors}, {source.upstream}. "
            f"{source.licence} ({_ADDRESSES[source.licence]}, `licenses/{text}`).\n"
        )
    (out / "ATTRIBUTION.md").write_text(_HEAD + "".join(lines), "utf-8")
    (out / "licenses").mkdir()
    shutil.copyfile(roots["cldr"] / "LICENSE", out / "licenses/Unicode-3.0.txt")
    shutil.copyfile(roots["emojibase"] / "LICENSE", out / "licenses/MIT-emojibase.txt")
    for path in sorted(texts.glob("*.txt")):
        shutil.copyfile(path, out / "licenses" / path.name)
