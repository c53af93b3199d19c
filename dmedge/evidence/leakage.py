"""Which data a figure was measured on, and whether the artifact had seen it before."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from PIL import Image

from dmedge.artifact import Artifact, load_artifact
from dmedge.data.content import TRAINED_ON, Ids, picture_id, read_ids
from dmedge.data.evalset import EvalSet
from dmedge.data.transforms import Preprocess
from dmedge.errors import ArtifactError, DataError
from dmedge.evidence.baseline import RUNS
from dmedge.lineage import descent, trace_lineage
from dmedge.manifest import Manifest
from dmedge.patience import patient_progress

CALIBRATION = "calibration.json"
NEW = "novel"  # tag of texts that must occur nowhere in training or calibration
EMOJI = "emoji"  # the embedded data, as `data` of a stage and as the first word of an evaluation set
IMPORTED = frozenset({"image_tower", "text_tower"})  # in the summary of a checkpoint: towers that others trained
INDIRECT = frozenset({"teacher"})  # parents whose weights are not those of the child

TrainingCheck = Literal["by content", "by construction", "not recorded"]


@dataclass(frozen=True, slots=True)
class Calibration:
    """What an artifact was calibrated on, by content."""

    data: str
    pixels_sha256: frozenset[str]  # of pictures after preprocessing
    texts_sha256: frozenset[str]


def data_digest(data: EvalSet) -> str:
    """sha256 over every pixel, text, language and match of the set, its labels and its answers, in order."""
    hasher = hashlib.sha256()
    for image in data.images:
        pixels = np.asarray(image)
        hasher.update(repr((pixels.shape, pixels.dtype.str)).encode() + pixels.tobytes())
    for text, language, match in zip(data.texts, data.languages, data.text_image.tolist(), strict=True):
        hasher.update(repr((text, language, match)).encode())
    hasher.update(repr(data.clusters).encode())
    for told in (data.labels, [sorted(scores.items()) for scores in data.answers]):
        if told:
            hasher.update(repr(told).encode())
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


@dataclass(frozen=True, slots=True)
class Training:
    """What the weights of an artifact learned from."""

    pictures: Ids  # of the files, see `dmedge.data.content`
    is_recorded: bool  # whether all that it was made from was found and tells


@runtime_checkable
class PictureFiles(Protocol):
    """Pictures of an evaluation set that lie in files."""

    def encoded(self, index: int) -> Path | bytes:
        """The file of one picture, or its bytes."""
        ...


def find_training(artifact: Artifact, places: Sequence[Path] = (RUNS,)) -> Training:
    """What `artifact` and all that its weights come from were trained on, as far as it is recorded.

    Raises:
        ArtifactError: a record, or the artifact that holds it, is damaged.
    """
    ancestors = [(ancestor.root, ancestor.manifest) for ancestor in descent(artifact, places, INDIRECT)]
    pictures, is_recorded = [np.zeros(0, np.uint64)], True
    for root, manifest in ((artifact.root, artifact.manifest), *ancestors):
        if root is not None and manifest is not None and TRAINED_ON in manifest.files:
            pictures.append(read_ids(load_artifact(root).file(TRAINED_ON)))
        is_recorded = is_recorded and manifest is not None and _tells_all(manifest)
    return Training(np.unique(np.concatenate(pictures)), is_recorded)


def check_training(training: Training, data: EvalSet) -> TrainingCheck:
    """Refuse to evaluate on pictures that were learned from, and say how far that could be told.

    Returns:
        "by construction" for the embedded data, whose splits are fixed; "by content" if every picture was compared
        with all that was trained on; "not recorded" if there is no record of some of that.

    Raises:
        DataError: the model was trained on a picture of the set.
    """
    if data.name.startswith(f"{EMOJI}/"):
        return "by construction"
    if not isinstance(data.images, PictureFiles):
        return "not recorded"
    if len(training.pictures):
        ids = np.zeros(len(data.images), np.uint64)
        with patient_progress("comparing pictures with those trained on", len(ids)) as advance:
            for row in range(len(ids)):
                ids[row] = picture_id(data.images.encoded(row))
                advance(1)
        seen = np.flatnonzero(np.isin(ids, training.pictures))
        if len(seen):
            raise DataError(
                f"{data.name}: {len(seen)} of {len(ids)} pictures were trained on, such as "
                f"{data.clusters[seen[0]]!r}; expected none, since figures on them flatter; "
                "evaluate on pictures that were kept out of training"
            )
    return "by content" if training.is_recorded else "not recorded"


def _tells_all(manifest: Manifest) -> bool:
    """Whether a stage brought no weights from elsewhere, and learned from what it names or from the embedded data."""
    config: Any = manifest.config
    if manifest.stage == "import" or IMPORTED & manifest.summary.keys():
        return False
    if TRAINED_ON in manifest.files or config.get("data") == EMOJI:
        return True
    recovers = config.get("prune") and config.get("learn", {}).get("steps")
    learns = config.get("distill") or config.get("qat") or recovers
    return manifest.stage != "train" and not (manifest.stage == "compress" and learns)


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
