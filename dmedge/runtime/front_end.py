"""What stands around the programs of an artifact: pictures and strings made into arrays, and outputs called by name."""

import json
from dataclasses import dataclass
from typing import Any, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dmedge.artifact import Artifact
from dmedge.data.hf_tokenizer import AnyTokenizer, open_tokenizer
from dmedge.data.transforms import Preprocess
from dmedge.errors import ArtifactError, DataError
from dmedge.runtime.wire import Array

Picture: TypeAlias = Image.Image | NDArray[np.uint8]

PREPROCESS, LABELS, ANSWERS = "preprocessor_config.json", "labels.json", "answers.json"


@dataclass(frozen=True, slots=True)
class FrontEnd:
    """The files of an artifact that its programs are fed and read by."""

    tokenizer: AnyTokenizer | None  # None where no program reads text
    preprocess: Preprocess | None  # None where no program reads pictures
    labels: tuple[str, ...]  # of the class head, or of the prompts; none where there is no such head
    answers: tuple[str, ...]

    @classmethod
    def read(cls, artifact: Artifact) -> Self:
        """That of a checkpoint or a bundle.

        Raises:
            ArtifactError: a file that a program needs is missing or no JSON, or no context length is named.
            DataError: the preprocessing or the tokenizer cannot be read.
        """
        return cls(
            open_tokenizer(artifact, context_length(artifact)) if _takes(artifact, "ids") else None,
            Preprocess.from_json(_read_json(artifact, PREPROCESS)) if _takes(artifact, "pixels") else None,
            *(_read_names(artifact, name) for name in (LABELS, ANSWERS)),
        )


def pixels_of(image: Picture, preprocess: Preprocess) -> Array:
    """A picture of any size as uint8 [1, size, size, 3]; an array that is ready is taken as it is.

    Raises:
        DataError: an array is not uint8 [H, W, 3].
    """
    if isinstance(image, Image.Image):
        return preprocess(image)[None]
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise DataError(f"an image is {image.dtype}{list(image.shape)}; expected uint8[height, width, 3]; convert it")
    is_ready = image.shape[:2] == (preprocess.size, preprocess.size) and preprocess.keeps_square
    return image[None] if is_ready else preprocess(Image.fromarray(image))[None]


def context_length(artifact: Artifact) -> int:
    """Largest number of tokens that the text program of a checkpoint or a bundle takes.

    Raises:
        ArtifactError: the artifact does not say.
    """
    manifest = artifact.manifest
    table = _read_json(artifact, "config.json") if "config.json" in manifest.files else {}
    found = table.get("context_length", manifest.summary.get("context_length"))
    if not isinstance(found, int):
        raise ArtifactError(f"{artifact.root}: names no context_length; expected one in its summary; export it again")
    return found


def _takes(artifact: Artifact, tensor: str) -> bool:
    """Whether a checkpoint, or a program of a bundle, has an input of that name: "pixels" or "ids"."""
    if artifact.manifest.kind == "checkpoint":
        return True
    return any(spec.name == tensor for program in artifact.manifest.programs for spec in program.inputs)


def _read_json(artifact: Artifact, name: str) -> Any:
    path = artifact.file(name)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ArtifactError(f"{path}: not JSON ({error}); expected it; make the artifact again") from error


def _read_names(artifact: Artifact, name: str) -> tuple[str, ...]:
    """What the outputs of a head are called; nothing where there is no such file."""
    return tuple(_read_json(artifact, name)) if name in artifact.manifest.files else ()
