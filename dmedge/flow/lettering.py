"""Lines of text in any script, as far as the machine has fonts for it."""

import shutil
import subprocess
from functools import lru_cache

from PIL import ImageDraw, ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

_LONGEST = 400  # letters of a text that are looked at
INK, FAINT = (20, 24, 32), (108, 116, 132)


def write_line(
    draw: ImageDraw.ImageDraw, start: tuple[int, int], text: str, size: int, width: int, ink: tuple[int, ...] = INK
) -> None:
    """Write as much of `text` as fits on one line, whose baseline begins at `start`."""
    line = " ".join(text[:_LONGEST].split())
    font, line = font_for(line, size)
    if draw.textlength(line, font) > width:
        while line and draw.textlength(f"{line}...", font) > width:
            line = line[:-1]
        line += "..."
    draw.text(start, line, ink, font, anchor="ls")


def font_for(text: str, size: int) -> tuple[Font, str]:
    """A font that has every letter of `text`; where the machine has none, the text in escapes."""
    found = find_font(text, size)
    if found is not None:
        return found, text
    return ImageFont.load_default(size), text.encode("ascii", "backslashreplace").decode()


def find_font(text: str, size: int) -> Font | None:
    """A font that has every letter of `text`, None where the machine has none."""
    if text.isascii():
        return ImageFont.load_default(size)
    for file in _font_files("".join(sorted(set(text) - {" "}))):
        try:
            return ImageFont.truetype(file, size)
        except OSError:  # colour bitmaps come in one size only
            continue
    return None


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
