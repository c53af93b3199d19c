"""Pictures to search in, and their embeddings, computed once per artifact."""

import hashlib
import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dmedge import __version__
from dmedge.artifact import Artifact
from dmedge.data.captions import ImageFiles
from dmedge.data.emoji import load_pack
from dmedge.environment import cache_folder
from dmedge.errors import DataError
from dmedge.flow.atomic import write_atomically
from dmedge.runtime.encoder import Encoder

logger = logging.getLogger("dmedge")

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")


@dataclass(frozen=True, slots=True)
class Item:
    """What a person knows a picture by: an emoji and its English name, or a file."""

    name: str
    char: str | None = None
    file: Path | None = None


@dataclass(frozen=True, eq=False)
class Gallery:
    """N pictures; the fingerprint changes with any of them."""

    name: str
    fingerprint: str
    images: Sequence[Any]  # [N] pictures or uint8 [H, W, 3] arrays; files are opened when asked for
    items: tuple[Item, ...]  # [N]


def emoji_gallery(style: str) -> Gallery:
    """The emoji that one art style of the embedded pack draws.

    Raises:
        DataError: there is no such style.
    """
    pack = load_pack()
    images, present = pack.images(style)
    shown = [emoji for emoji, is_drawn in zip(pack.emoji, present, strict=True) if is_drawn]
    return Gallery(
        name=f"emoji/{style}",
        fingerprint=pack.style_table[style].sha256,
        images=tuple(images[present]),
        items=tuple(Item(emoji.name, char=emoji.char) for emoji in shown),
    )


def folder_gallery(folder: Path) -> Gallery:
    """The picture files below a folder, in the order of their names.

    Raises:
        DataError: there is no such folder, or no picture in it.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; expected one that holds pictures; name another")
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not files:
        raise DataError(f"{folder}: no pictures; expected files ending in {', '.join(SUFFIXES)}; name another folder")
    names = [path.relative_to(folder).as_posix() for path in files]
    facts = [(name, path.stat().st_size, path.stat().st_mtime_ns) for name, path in zip(names, files, strict=True)]
    return Gallery(
        name=str(folder),
        fingerprint=hashlib.sha256(repr((str(folder.resolve()), facts)).encode("utf-8", "surrogateescape")).hexdigest(),
        images=ImageFiles(files),
        items=tuple(Item(name, file=path) for name, path in zip(names, files, strict=True)),
    )


def embed_gallery(encoder: Encoder, artifact: Artifact, gallery: Gallery) -> NDArray[np.float32]:
    """Embeddings [N, D] of a gallery, kept below the user's cache folder.

    Raises:
        DataError: a picture cannot be read.
    """
    path = cache_folder() / "galleries" / f"{_key(artifact, gallery)}.npy"
    shape = (len(gallery.items), encoder.embed_dim)
    with suppress(OSError, ValueError, EOFError):  # none yet, or damaged: it is only a cache
        found: NDArray[np.float32] = np.load(path, allow_pickle=False)
        if found.shape == shape and found.dtype == np.float32:
            return found
    embeddings = encoder.images(gallery.images)
    try:
        write_atomically(path, lambda stream: np.save(stream, embeddings, allow_pickle=False))
    except OSError as error:
        logger.debug("embeddings are not kept for the next search: %s", error)
    return embeddings


def _key(artifact: Artifact, gallery: Gallery) -> str:
    parts = (artifact.digest, gallery.fingerprint, __version__)
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]
