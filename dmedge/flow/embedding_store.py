"""Embeddings that were made before: one folder per encoder in the user's cache, one file per chunk of pictures."""

import hashlib
import logging
import zipfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dmedge import __version__
from dmedge.environment import cache_folder
from dmedge.flow.atomic import write_atomically

logger = logging.getLogger("dmedge")


class EmbeddingStore:
    """Rows by key. It is only a cache: what is missing or damaged is made again."""

    def __init__(self, encoder_digest: str, embed_dim: int) -> None:
        """Look into the folder of one encoder.

        Args:
            encoder_digest: of the artifact that embeds.
            embed_dim: numbers in a row.
        """
        name = hashlib.sha256(f"{encoder_digest}\0{__version__}".encode()).hexdigest()[:32]
        self._folder = cache_folder() / "embeddings" / name
        self._embed_dim = embed_dim

    def find(self, keys: Sequence[str]) -> NDArray[np.float32]:
        """Rows [N, D] of `keys`; NaN where there is none."""
        rows = np.full((len(keys), self._embed_dim), np.nan, np.float32)
        places: dict[str, list[int]] = {}
        for place, key in enumerate(keys):
            places.setdefault(key, []).append(place)
        for path in self._files():
            with suppress(OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile):
                for key, row in _read(path, self._embed_dim):
                    rows[places.get(key, [])] = row
        return rows

    def keep(self, keys: Sequence[str], rows: NDArray[np.float32]) -> None:
        """Write one chunk; where nothing can be written, the next run makes it again."""
        if not keys:
            return
        name = hashlib.sha256("\0".join(keys).encode()).hexdigest()[:32]
        try:
            write_atomically(
                self._folder / f"{name}.npz", lambda stream: np.savez(stream, keys=np.array(keys), rows=rows)
            )
        except OSError as error:
            logger.debug("embeddings are not kept for the next time: %s", error)

    def _files(self) -> list[Path]:
        with suppress(OSError):
            return sorted(path for path in self._folder.iterdir() if path.suffix == ".npz")
        return []


def _read(path: Path, embed_dim: int) -> list[tuple[str, NDArray[np.float32]]]:
    """Keys and rows of one chunk; none if they are not of this kind."""
    with path.open("rb") as stream, np.load(stream, allow_pickle=False) as chunk:
        keys, rows = chunk["keys"].tolist(), chunk["rows"]
    is_fit = rows.shape == (len(keys), embed_dim) and rows.dtype == np.float32
    return list(zip(keys, rows, strict=True)) if is_fit else []
