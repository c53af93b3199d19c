"""The npm packages that the pack is made of: fetched once, checked, unpacked."""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Source:
    """One npm package, pinned by version and by the sha512 of its tarball."""

    key: str
    package: str
    version: str
    integrity: str
    licence: str
    authors: str
    upstream: str
    use: str

    @property
    def tarball(self) -> str:
        """File name that `npm pack` gives."""
        return f"{self.package.removeprefix('@').replace('/', '-')}-{self.version}.tgz"


_GOOGLE = "Google Inc. (Noto Emoji)"
_MICROSOFT = "Microsoft Corporation (Fluent Emoji)"
_UNICODE = "Unicode, Inc. (Unicode CLDR)"
_NOTO = "https://github.com/googlefonts/noto-emoji"
_FLUENT = "https://github.com/microsoft/fluentui-emoji"
_CLDR = "https://github.com/unicode-org/cldr-json"

SOURCES = (
    Source(
        "cldr",
        "cldr-annotations-full",
        "48.2.0",
        "sha512-DV7A+rEcgUSNTRsVGNGqBZRmAkGfwhGHO5Q1dRwzBoBnVrHWp804JP7/QJdEc66iHmx3+zLWVIMCFLm0lW7PUQ==",
        "Unicode-3.0",
        _UNICODE,
        _CLDR,
        "names and keywords",
    ),
    Source(
        "cldr-derived",
        "cldr-annotations-derived-full",
        "48.2.0",
        "sha512-log62km+AOzI7n/NEuNNFV0mg9DWnt67EYCh1RwxZq9dyRuyteB586LT83Ke8TchEfnwI9cIk2P31zO4nTvZmw==",
        "Unicode-3.0",
        _UNICODE,
        _CLDR,
        "names and keywords of composed emoji (flags, families)",
    ),
    Source(
        "cldr-misc",
        "cldr-misc-full",
        "48.2.0",
        "sha512-dSc2Tr53dQcUGwsTinamEeoP2YXOhQrIZ+SyeuUrv4MzJOSjT/Q0qkSmX11ZwfcTbYSkIqbrgALQLhAm1yf5fA==",
        "Unicode-3.0",
        _UNICODE,
        _CLDR,
        "patterns that join words into a list",
    ),
    Source(
        "emojibase",
        "emojibase-data",
        "17.0.0",
        "sha512-Yvgb5AWoHViHV/gq1qr5ZAarcBip+B27/ZLRsUJkbgAEaLlZ/fof9g882LTpmEpyhBNEC0m2SEmItljHsTygjA==",
        "MIT",
        "Miles Johnson (Emojibase)",
        "https://github.com/milesj/emojibase",
        "list of emoji, groups and subgroups",
    ),
    Source(
        "noto",
        "@iconify-json/noto",
        "1.2.9",
        "sha512-DQiuXENbun41ch+XPSV55H9FaWKpHTyz46YIKtSaKYD4fIDDzL1tR6H4np/T38jfrTAeI3rcKF0mqHYeZVAuaw==",
        "Apache-2.0",
        _GOOGLE,
        _NOTO,
        "art style noto",
    ),
    Source(
        "noto-v1",
        "@iconify-json/noto-v1",
        "1.2.5",
        "sha512-/DsVMius69Q0fRS53z7QK1TROSuar606jiIx+laXtdsYGMXpf6LtHBx6CGfoo3UHHb/XpBsw+1L1x3eyPqMuVA==",
        "Apache-2.0",
        _GOOGLE,
        _NOTO,
        "art style noto-v1",
    ),
    Source(
        "fluent-flat",
        "@iconify-json/fluent-emoji-flat",
        "1.2.6",
        "sha512-RY47RgPb47fYUiyrA64sIOL0+UU02s29sXpNBbIQRBUlPlfNFTKUmZDERGuxDs/7yNGWqQYvuaSYM1M4fRXlUw==",
        "MIT",
        _MICROSOFT,
        _FLUENT,
        "art style fluent-flat",
    ),
    Source(
        "fluent",
        "@iconify-json/fluent-emoji",
        "1.2.7",
        "sha512-D8G6bKAyIsyxP1rzZtIWr/gg/fO4Rg1+DyCWlfqKK4h8W+4Em/Y0P6QYgJUQTlUcagzJvSyg+9OBv4hz4Hc/QA==",
        "MIT",
        _MICROSOFT,
        _FLUENT,
        "art style fluent",
    ),
    Source(
        "fluent-3d",
        "@lobehub/fluent-emoji-3d",
        "1.1.0",
        "sha512-Wlq2lVStTnr8BDpIJ0pEnTKO4LuDxxqTEhTvRtD1DLRF0me7ogeRQjKoehDHXuVJ2Qaecgl5wRBv60lUAG3h7g==",
        "MIT",
        f"{_MICROSOFT}, packaged by LobeHub",
        _FLUENT,
        "art style fluent-3d",
    ),
    Source(
        "fluent-mono",
        "@iconify-json/fluent-emoji-high-contrast",
        "1.2.6",
        "sha512-esqhZPpkrF7sNX3NsLoh8KW64okEr/bzko7WNnFP+qTJGAqDPDYjp0925yxuivXy3HtVQB8xhIKu3+Nq1byX5w==",
        "MIT",
        _MICROSOFT,
        _FLUENT,
        "art style fluent-mono",
    ),
    Source(
        "flag-icons",
        "@iconify-json/flag",
        "1.2.12",
        "sha512-B5zphOSTn54UX9v1sKsR1atuhyuXExiAkjuLQA8aeDcB68+P6oiStEDeEEVkbHgwvFvklPM2G7GhqFw6VMnXhw==",
        "MIT",
        "Panayiotis Lipiridis (flag-icons)",
        "https://github.com/lipis/flag-icons",
        "art style flag-icons (flags only)",
    ),
    Source(
        "fxemoji",
        "@iconify-json/fxemoji",
        "1.2.2",
        "sha512-UAasRaxzFUKfIGSmLwnoarsssA4LX0VLLuEmplIqM6ZNQqIQRtav8tZ4H1neTlBreXuMQyAifr5jP4kn78DpiQ==",
        "Apache-2.0",
        "Mozilla (Firefox OS Emoji)",
        "https://github.com/mozilla/fxemoji",
        "art style fxemoji",
    ),
    Source(
        "twemoji",
        "@iconify-json/twemoji",
        "1.2.5",
        "sha512-uKpuIEV0v6K5BW3Mjdyl+XKFVAbbcPxAgifKvEMtZoUZB5+YiY5zaMm2uNNCxyXzAWU9yNLlj41WU6/mvgALsw==",
        "CC-BY-4.0",
        "Twitter, Inc. and other contributors (Twemoji)",
        "https://github.com/jdecked/twemoji",
        "art style twemoji",
    ),
)


def fetch(source: Source, cache: Path) -> Path:
    """Folder of the unpacked package, after `npm pack` if the tarball is not in the cache.

    Raises:
        SystemExit: the sha512 of the tarball is not the pinned one.
    """
    tarball = cache / source.tarball
    if not tarball.exists():
        wanted = f"{source.package}@{source.version}"
        subprocess.run(
            ["npm", "pack", wanted, "--pack-destination", str(cache)],
            check=True,
            stdout=subprocess.DEVNULL,
        )
    digest = hashlib.sha512(tarball.read_bytes()).digest()
    found = f"sha512-{base64.b64encode(digest).decode()}"
    if found != source.integrity:
        raise SystemExit(f"{tarball}: {found} differs from the pinned {source.integrity}; delete it and run again")
    folder = cache / "unpacked" / source.tarball.removesuffix(".tgz")
    if not folder.exists():
        partial = folder.with_suffix(".partial")
        with tarfile.open(tarball) as archive:
            archive.extractall(partial, filter="data")
        partial.rename(folder)
    (root,) = folder.iterdir()  # npm wraps every package in one folder, usually "package"
    return root


def read_json(path: Path) -> Any:
    """One JSON file."""
    return json.loads(path.read_text("utf-8"))
