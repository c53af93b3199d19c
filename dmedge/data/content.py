"""Names for what a model is shown, by its content: eight bytes of a hash of a picture file, or of a text."""

import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dmedge.errors import ArtifactError, DataError

TRAINED_ON = "trained_on.u64"  # in a checkpoint: ids of the pictures that it learned from, ascending, little-endian
Ids = NDArray[np.uint64]


def picture_id(image: Path | bytes) -> int:
    """The first eight bytes of the sha256 of a picture file, never 0.

    Two of a million files agree by chance with a probability of 3e-8. A picture that is saved anew is another file.

    Args:
        image: a file, or the bytes of one.

    Raises:
        DataError: the file cannot be read.
    """
    content = image if isinstance(image, bytes) else _content(image)
    return int.from_bytes(hashlib.sha256(content).digest()[:8], "big") or 1


def text_id(text: str) -> int:
    """The first eight bytes of the sha256 of a text in UTF-8, never 0; what UTF-8 cannot say counts as "?"."""
    return picture_id(text.encode("utf-8", "replace"))


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"missing picture ({path}: {error.strerror}); expected a file; restore it") from error


def write_ids(path: Path, ids: ArrayLike) -> None:
    """Write ids, each once; 8 bytes a picture."""
    np.unique(np.asarray(ids, np.uint64)).astype("<u8").tofile(path)


def read_ids(path: Path) -> Ids:
    """What `write_ids` wrote.

    Raises:
        ArtifactError: it is something else.
    """
    content = path.read_bytes()
    ids = np.frombuffer(content[: len(content) // 8 * 8], "<u8").astype(np.uint64)
    if len(content) % 8 or (ids[1:] <= ids[:-1]).any():
        raise ArtifactError(f"{path}: {len(content)} bytes; expected ascending numbers of 8 bytes; train again")
    return ids
