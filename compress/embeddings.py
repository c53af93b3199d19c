"""Embeddings that were computed before, in one file whose rows are found by content: a teacher that ran once.

The file is safetensors with one or both of two pairs: `text_ids` uint64 [T] with `text_embeddings` [T, D], and
`picture_ids` uint64 [N] with `picture_embeddings` [N, D], of any float type and length; ids are those of
`dmedge.data.content`. Whatever made the embeddings, and whatever tokens it reads, it teaches on every batch.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import Tensor
from torch.nn import functional as F

from dmedge.data.captions import ImageFiles
from dmedge.data.content import Ids, picture_id, text_id
from dmedge.data.emoji import load_pack
from dmedge.data.evalset import folder_evalset
from dmedge.errors import DataError
from dmedge.logs import progress
from dmedge.training.batch import TrainBatch
from dmedge.training.data import emoji_training_data
from dmedge.training.distill import View

SUFFIX = ".safetensors"
KINDS = ("text", "picture")
CHUNK = 2048  # embedded between two steps of the progress bar

Embed = Callable[[Sequence[Any]], NDArray[np.float32]]


@dataclass(frozen=True, eq=False)
class Rows:
    """Embeddings of one kind of thing."""

    ids: Ids  # [N] ascending
    embeddings: Tensor  # [N, D]

    def find(self, asked: Ids) -> tuple[Tensor, Tensor]:
        """Float32 [T, D] of unit norm, of no meaning where bool [T] says that the id is not known."""
        places = np.searchsorted(self.ids, asked).clip(max=len(self.ids) - 1)
        rows = F.normalize(self.embeddings[torch.from_numpy(places)].float(), dim=-1)
        return rows, torch.from_numpy(self.ids[places] == asked)


class CachedTeacher:
    """What a file says of the pictures and the texts of a batch.

    Texts are meant without their noise, and pictures without their augmentation, which the student sees.
    """

    def __init__(self, path: Path, rows: Mapping[str, Rows]) -> None:
        self.path, self.rows = path, rows
        self._is_of_use = False

    def __call__(self, batch: TrainBatch) -> View:
        """The rows of a batch.

        Raises:
            DataError: the first batch has nothing that the file knows.
        """
        image, has_image = self._found("picture", batch.content, batch.pixels.device)
        contents = [chunk.content for chunk in batch.chunks if chunk.content is not None]
        texts = np.concatenate(contents) if contents else None
        text, has_text = self._found("text", texts, batch.pixels.device)
        if not self._is_of_use:
            if not any(known is not None and bool(known.any()) for known in (has_image, has_text)):
                raise DataError(
                    f"{self.path}: knows nothing of the first batch; expected embeddings of the data to learn from; "
                    "name the same --data to dmedge embed"
                )
            self._is_of_use = True
        return View(image=image, text=text, has_image=has_image, has_text=has_text)

    def _found(self, kind: str, asked: Ids | None, device: torch.device) -> tuple[Tensor | None, Tensor | None]:
        if asked is None or kind not in self.rows:
            return None, None
        rows, known = self.rows[kind].find(asked)
        return rows.to(device), known.to(device)


def cached_teacher(path: Path) -> CachedTeacher:
    """Open a file of embeddings; rows are read when they are asked for.

    Raises:
        DataError: it is no such file, or what it holds does not fit together.
    """
    try:
        with safe_open(path, framework="pt") as stored:
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118  # it is no mapping
    except (OSError, SafetensorError) as error:
        raise DataError(f"{path}: {error}; expected a file that dmedge embed wrote") from error
    rows = {kind: found for kind in KINDS if (found := _rows(path, kind, tensors)) is not None}
    if not rows:
        raise DataError(f"{path}: has no embeddings; expected text_ids and text_embeddings, or of pictures")
    return CachedTeacher(path, rows)


def _rows(path: Path, kind: str, tensors: Mapping[str, Tensor]) -> Rows | None:
    """The embeddings of one kind; None where the file has neither of both tensors."""
    pair = (f"{kind}_ids", f"{kind}_embeddings")
    missing = [name for name in pair if name not in tensors]
    if len(missing) == len(pair):
        return None
    if missing:
        raise DataError(f"{path}: has no {missing[0]}; expected {' with '.join(pair)}")
    ids, embeddings = (tensors[name] for name in pair)
    if ids.dtype != torch.uint64 or ids.dim() != 1 or embeddings.dim() != 2 or not embeddings.is_floating_point():
        raise DataError(
            f"{path}: {kind}_ids is {ids.dtype} {list(ids.shape)}, {kind}_embeddings {embeddings.dtype} "
            f"{list(embeddings.shape)}; expected uint64 [N] and a float [N, D]"
        )
    if len(ids) != len(embeddings) or not len(ids):
        raise DataError(f"{path}: {len(ids)} {kind}_ids for {len(embeddings)} embeddings; expected as many, and some")
    if not all(bool(embeddings[row : row + CHUNK].isfinite().all()) for row in range(0, len(embeddings), CHUNK)):
        raise DataError(f"{path}: {kind}_embeddings are not all finite; expected numbers; embed again")
    order = np.argsort(ids.numpy(), kind="stable")
    ordered = ids.numpy()[order]
    if (ordered[1:] == ordered[:-1]).any():
        raise DataError(f"{path}: {kind}_ids names one {kind} twice; expected each once")
    is_ordered = bool((order == np.arange(len(order))).all())
    return Rows(ordered, embeddings if is_ordered else embeddings[torch.from_numpy(order)])


def embed_data(texts: Embed, images: Embed | None, data: str) -> dict[str, NDArray[Any]]:
    """Embed all text and pictures that learning from `data` may show.

    Args:
        texts: maps N texts to [N, D].
        images: maps N pictures to [N, D]; None for a teacher that sees none.
        data: "emoji", of which only what may be trained on is taken, or a folder with images and captions.

    Returns:
        the arrays of such a file, embeddings as float16.

    Raises:
        DataError: the folder cannot be used.
    """
    pictures: Any
    if data == "emoji":
        training = emoji_training_data(load_pack())
        written, pictures, ids = training.texts, training.images, training.content
    else:
        captions = folder_evalset(Path(data))
        assert isinstance(captions.images, ImageFiles)
        written, pictures = captions.texts, captions.images
        ids = np.array([picture_id(captions.images.encoded(i)) for i in range(len(captions.images))], np.uint64)
    unique = {text_id(text): text for text in written}
    arrays = _embedded("text", texts, np.array(list(unique), np.uint64), list(unique.values()))
    if images is not None:
        arrays |= _embedded("picture", images, ids, pictures)
    return arrays


def _embedded(kind: str, embed: Embed, ids: Ids, items: Sequence[Any]) -> dict[str, NDArray[Any]]:
    ordered, first = np.unique(ids, return_index=True)
    parts = []
    with progress(f"embedding {kind}s", total=len(ordered)) as advance:
        for start in range(0, len(ordered), CHUNK):
            some = first[start : start + CHUNK]
            parts.append(embed([items[int(row)] for row in some]).astype(np.float16))
            advance(len(some))
    return {f"{kind}_ids": ordered, f"{kind}_embeddings": np.concatenate(parts)}


def write_embeddings(path: Path, arrays: Mapping[str, NDArray[Any]], teacher: str) -> None:
    """Write the arrays, and whose they are; the file appears whole or not at all."""
    part = path.with_name(f".{path.name}.tmp")
    try:
        save_file(dict(arrays), part, metadata={"teacher": teacher})
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
