"""Pictures to search in, and their embeddings, made once per encoder."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from dmedge.artifact import Artifact
from dmedge.data.captions import ImageFiles
from dmedge.data.emoji import load_pack
from dmedge.errors import DataError
from dmedge.flow.embedding_store import EmbeddingStore
from dmedge.patience import patient_progress
from dmedge.runtime.encoder import Encoder

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")
CHUNK = 256  # pictures that are embedded before they are kept

OnBad = Callable[[int, DataError], None]


@dataclass(frozen=True, slots=True)
class Item:
    """What a person knows a picture by: an emoji and its English name, or a file."""

    name: str
    char: str | None = None
    file: Path | None = None


@dataclass(frozen=True, eq=False)
class Gallery:
    """N pictures; the key of one changes with its content."""

    name: str
    keys: Sequence[str]  # [N] sha256, lower-case hex
    images: Sequence[Any]  # [N] pictures or uint8 [H, W, 3] arrays; files are opened when asked for
    items: tuple[Item, ...]  # [N]


class SomePictures(Sequence[Any]):
    """Some of a sequence of pictures, none opened before it is asked for."""

    def __init__(self, images: Sequence[Any], places: Sequence[int]) -> None:
        self._images, self._places = images, tuple(places)

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> "SomePictures": ...
    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return SomePictures(self._images, self._places[index])
        return self._images[self._places[index]]


def emoji_gallery(style: str) -> Gallery:
    """The emoji that one art style of the embedded pack draws.

    Raises:
        DataError: there is no such style.
    """
    pack = load_pack()
    images, present = pack.images(style)
    shown = [emoji for emoji, is_drawn in zip(pack.emoji, present, strict=True) if is_drawn]
    tiles = tuple(images[present])
    return Gallery(
        name=f"emoji/{style}",
        keys=tuple(hashlib.sha256(tile.tobytes()).hexdigest() for tile in tiles),
        images=tiles,
        items=tuple(Item(emoji.name, char=emoji.char) for emoji in shown),
    )


def folder_gallery(folder: Path) -> Gallery:
    """The picture files below a folder, in the order of their names.

    A file counts as another picture once its path, its size or its time of change is another.

    Raises:
        DataError: there is no such folder, or no picture in it.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; expected one that holds pictures; name another")
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not files:
        raise DataError(f"{folder}: no pictures; expected files ending in {', '.join(SUFFIXES)}; name another folder")
    names = [path.relative_to(folder).as_posix() for path in files]
    return Gallery(
        name=str(folder),
        keys=tuple(_file_key(path) for path in files),
        images=ImageFiles(files),
        items=tuple(Item(name, file=path) for name, path in zip(names, files, strict=True)),
    )


def embed_gallery(
    encoder: Encoder, artifact: Artifact, gallery: Gallery, *, on_bad: OnBad | None = None
) -> NDArray[np.float32]:
    """Embeddings [N, D] of a gallery; those of pictures that were embedded before are found again.

    Work is kept in chunks below the user's cache folder, so what was begun goes on where it stood.

    Args:
        encoder: with the programs of `artifact`.
        artifact: what the embeddings belong to.
        gallery: pictures to embed.
        on_bad: called with the place of a picture that cannot be read, and why; its row is NaN
            [default: raise].

    Raises:
        DataError: a picture cannot be read, and there is no `on_bad`.
    """
    store = EmbeddingStore(artifact.digest, encoder.embed_dim)
    rows = store.find(gallery.keys)
    missing = np.flatnonzero(np.isnan(rows[:, 0])).tolist()
    with patient_progress("encoding images", len(missing)) as advance:
        for start in range(0, len(missing), CHUNK):
            chunk = missing[start : start + CHUNK]
            for place, row in _embed(encoder, gallery, chunk, on_bad):
                rows[place] = row
            done = [place for place in chunk if not np.isnan(rows[place, 0])]
            store.keep([gallery.keys[place] for place in done], rows[done])
            advance(len(chunk))
    return rows


def _embed(
    encoder: Encoder, gallery: Gallery, places: Sequence[int], on_bad: OnBad | None
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    try:
        yield from zip(places, encoder.images(SomePictures(gallery.images, places)), strict=True)
    except DataError as error:
        if on_bad is None:
            raise
        if len(places) == 1:
            on_bad(places[0], error)
        else:
            for place in places:
                yield from _embed(encoder, gallery, [place], on_bad)


def _file_key(path: Path) -> str:
    facts = path.stat()
    return hashlib.sha256(
        repr((str(path.resolve()), facts.st_size, facts.st_mtime_ns)).encode("utf-8", "surrogateescape")
    ).hexdigest()
