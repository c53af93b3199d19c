"""Which data a figure was measured on, and whether the artifact had seen it before."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dmedge.artifact import Artifact, load_artifact
from dmedge.data.evalset import EvalSet
from dmedge.data.transforms import Preprocess
from dmedge.errors import ArtifactError, DataError
from dmedge.evidence.baseline import RUNS
from dmedge.lineage import trace_lineage

CALIBRATION = "calibration.json"
NEW = "novel"  # tag of texts that must occur nowhere in training or calibration


@dataclass(frozen=True, slots=True)
class Calibration:
    """What an artifact was calibrated on, by content."""

    data: str
    pixels_sha256: frozenset[str]  # of pictures after preprocessing
    texts_sha256: frozenset[str]


def data_digest(data: EvalSet) -> str:
    """sha256 over every pixel, text, language and match of the set, in order."""
    hasher = hashlib.sha256()
    for image in data.images:
        pixels = np.asarray(image)
        hasher.update(repr((pixels.shape, pixels.dtype.str)).encode() + pixels.tobytes())
    for text, language, match in zip(data.texts, data.languages, data.text_image.tolist(), strict=True):
        hasher.update(repr((text, language, match)).encode())
    hasher.update(repr(data.clusters).encode())
    return hasher.hexdigest()


def find_calibration(artifact: Artifact, places: Sequence[Path] = (RUNS,)) -> Calibration | None:
    """Read the calibration of `artifact` or of its nearest ancestor that has one; None if none is found.

    Raises:
        ArtifactError: the record, or the artifact that holds it, is damaged.
    """
    ancestors = (ancestor.root for ancestor in trace_lineage(artifact, places) if ancestor.root is not None)
    for root in (artifact.root, *ancestors):
        if (root / CALIBRATION).is_file():
            return _read(load_artifact(root).file(CALIBRATION))
    return None


def check_calibration(calibration: Calibration, data: EvalSet, preprocess: Preprocess) -> None:
    """Refuse to evaluate on what the activation ranges were fitted to.

    A picture of the set that was calibrated on is an error. So is a text that the set calls novel;
    other texts may agree, since known text is meant to have been seen, and captions repeat.

    Raises:
        DataError: the set and the calibration data overlap.
    """
    pictures = [
        i for i, image in enumerate(data.images) if _pixels_sha256(image, preprocess) in calibration.pixels_sha256
    ]
    is_new = data.tags.get(NEW, np.zeros(len(data.texts), np.bool_))
    texts = [row for row in np.flatnonzero(is_new) if _sha256(data.texts[row].encode()) in calibration.texts_sha256]
    if pictures or texts:
        first = f"picture {data.clusters[pictures[0]]!r}" if pictures else f"text {data.texts[texts[0]]!r}"
        raise DataError(
            f"{data.name}: {len(pictures)} pictures and {len(texts)} novel texts were calibrated on "
            f"({calibration.data}), such as {first}; expected none, since figures on them flatter; "
            "evaluate on other data, or compress again with other calibration data"
        )


def _read(path: Path) -> Calibration:
    try:
        table: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return Calibration(
            data=str(table["data"]),
            pixels_sha256=frozenset(item["pixels_sha256"] for item in table["items"]),
            texts_sha256=frozenset(item["text_sha256"] for item in table["items"]),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(
            f"{path}: {error!r}; expected a record of calibration; run dmedge compress again"
        ) from error


def _pixels_sha256(image: Any, preprocess: Preprocess) -> str:
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    return _sha256(preprocess(picture).tobytes())


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
