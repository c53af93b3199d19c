"""The conformance pack that a bundle carries in `conformance/`; an app can read it as well.

* `cases.json`: `{"tolerances": {runtime: {program: number}}, "images": [file], "texts": [text],
  "pairs": [[image, text]]}`; files are relative to `conformance/`, a pair holds two places in the lists.
* `golden.npz`: for case i of a program, inputs and outputs under `PROGRAM/i/NAME`. Pixels of
  `encode_image/i` are those of `images[i]` after preprocessing, ids of `encode_text/i` those of
  `texts[i]`, so the pack tests resizing and tokenising too; `fuse/i` takes what the encoders gave for
  `pairs[i]`. The first output is there for every case, large ones only for the first few. `scores`
  [texts, images] are the dot products of the embeddings. A variant without one of the encoders has no
  `scores`, and no pictures or no texts. `classify/i` is about `images[i]`; `fuse_pair/i` about `pairs[i]`,
  which go through both lists side by side, from the start again where one is shorter.
* `model.bpte`, where it was asked for: the ExecuTorch program with some of these cases inside, so that
  it can judge itself on a device; `"bundled": {program: {"cases", "rtol", "atol"}}` in `cases.json`
  says how many there are, and by what tolerance.
"""

import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from dmedge.artifact import Artifact, Program
from dmedge.errors import ArtifactError, DataError
from dmedge.runtime.session import check_inputs, widened
from dmedge.runtime.wire import Array

FOLDER, CASES, GOLDEN, BUNDLED = "conformance", "cases.json", "golden.npz", "model.bpte"
SCORES = "scores"  # in golden.npz, and among the tolerances
HOLDERS = {"pixels": ("encode_image", "classify", "fuse_pair"), "ids": ("encode_text", "fuse_pair")}


class SelfTest(NamedTuple):
    """What a bundled program judges itself by: |found - golden| <= atol + rtol * |golden|."""

    cases: int
    rtol: float
    atol: float


@dataclass(frozen=True, eq=False)
class Pack:
    """What stands in `conformance/`."""

    folder: Path
    tolerances: Mapping[str, Mapping[str, float]]  # runtime -> program or "scores" -> greatest error
    images: tuple[str, ...]
    texts: tuple[str, ...]
    pairs: tuple[tuple[int, int], ...]  # of a picture and a text, one for every case of "fuse" or "fuse_pair"
    golden: Mapping[str, Array]
    bundled: Mapping[str, SelfTest] = field(default_factory=dict)

    def count(self, program: Program) -> int:
        """Number of cases of a program."""
        ending = f"/{program.inputs[0].name}"
        return sum(1 for key in self.golden if key.startswith(f"{program.name}/") and key.endswith(ending))

    def array(self, program: str, case: int, tensor: str) -> Array:
        """One input, or the first output.

        Raises:
            ArtifactError: it is not there.
        """
        key = golden_key(program, case, tensor)
        if key not in self.golden:
            raise ArtifactError(f"{self.folder / GOLDEN}: lacks {key!r}; expected it; run dmedge export again")
        return self.golden[key]

    def inputs(self, program: Program) -> list[list[Array]]:
        """What every case of a program is fed with.

        Raises:
            ArtifactError: there is no case, or an input is missing or does not fit.
        """
        n = self.count(program)
        if not n:
            raise ArtifactError(
                f"{self.folder}: no golden case of {program.name}; expected one at least; run dmedge export again"
            )
        items = [[self.array(program.name, case, spec.name) for spec in program.inputs] for case in range(n)]
        try:
            check_inputs(program, [widened(program, item) for item in items])
        except DataError as error:
            raise ArtifactError(f"{self.folder / GOLDEN}: {error}; run dmedge export again") from error
        return items

    def picture(self, name: str) -> Image.Image:
        """A golden picture as it was made.

        Raises:
            ArtifactError: it is missing or unreadable.
        """
        try:
            with Image.open(self.folder / name) as image:
                image.load()
                return image
        except OSError as error:
            raise ArtifactError(
                f"{self.folder / name}: {error}; expected a picture; run dmedge export again"
            ) from error

    def holder(self, tensor: str) -> str:
        """The program whose case i has `tensor`, "pixels" or "ids", of picture or text i.

        Raises:
            ArtifactError: there is none.
        """
        for program in HOLDERS[tensor]:
            if golden_key(program, 0, tensor) in self.golden:
                return program
        raise ArtifactError(f"{self.folder}: no golden {tensor}; expected some; run dmedge export again")

    def tolerance(self, runtime: str, name: str) -> float:
        """Greatest error that a program, or the scores, may have.

        Raises:
            ArtifactError: none is named, or none that is positive.
        """
        found = self.tolerances.get(runtime, {}).get(name)
        if not isinstance(found, (int, float)) or not found > 0:
            raise ArtifactError(
                f"{self.folder / CASES}: tolerance {found!r} for {name} in {runtime}; "
                "expected a positive number; run dmedge export again"
            )
        return float(found)

    def input_name(self, program: str, case: int) -> str:
        """The picture, the text, or the pair of both that a case is about."""
        if program in ("encode_image", "classify") and case < len(self.images):
            return self.images[case]
        if program == "encode_text" and case < len(self.texts):
            return brief_text(self.texts[case])
        if program in ("fuse", "fuse_pair") and case < len(self.pairs):
            image, text = self.pairs[case]
            return f"{self.input_name('encode_image', image)} with {self.input_name('encode_text', text)}"
        return "inputs of its own"


def golden_key(program: str, case: int, tensor: str) -> str:
    """Name of one array in golden.npz."""
    return f"{program}/{case}/{tensor}"


def brief_text(text: str) -> str:
    """A text in quotes, on one line and not too long; what cannot be seen is escaped."""
    shown = ascii(text) if not text.isprintable() or text.strip() != text else repr(text)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."


def read_pack(bundle: Artifact) -> Pack:
    """Read the conformance pack of a bundle.

    Raises:
        ArtifactError: it is missing or unreadable.
    """
    folder = bundle.root / FOLDER
    try:
        cases = json.loads((folder / CASES).read_text(encoding="utf-8"))
        return Pack(
            folder=folder,
            tolerances={runtime: dict(limits) for runtime, limits in cases["tolerances"].items()},
            images=tuple(cases["images"]),
            texts=tuple(cases["texts"]),
            pairs=tuple((int(image), int(text)) for image, text in cases["pairs"]),
            golden=_read_golden(folder / GOLDEN),
            bundled={name: SelfTest(**table) for name, table in cases.get("bundled", {}).items()},
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(f"{folder / CASES}: {error!r}; expected a conformance pack; run dmedge export") from error


def _read_golden(path: Path) -> dict[str, Array]:
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            return dict(archive)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise ArtifactError(f"{path}: {error}; expected golden arrays; run dmedge export") from error


def check_pack(pack: Pack, programs: Sequence[Program]) -> None:
    """Refuse a pack that lacks what it takes to judge some programs of one runtime, before any is run.

    Raises:
        ArtifactError: a case, a picture or a tolerance is missing, unreadable, or does not fit.
    """
    for program in programs:
        pack.tolerance(program.runtime, program.name)
        cases = range(len(pack.inputs(program)))
        for case in cases:
            pack.array(program.name, case, program.outputs[0].name)
        for spec in program.outputs:
            if not any(golden_key(program.name, case, spec.name) in pack.golden for case in cases):
                raise ArtifactError(
                    f"{pack.folder}: no golden {spec.name} of {program.name}; expected one at least; run dmedge export"
                )
    if {"encode_image", "encode_text"} <= {program.name for program in programs}:
        pack.tolerance(programs[0].runtime, SCORES)
        if SCORES not in pack.golden:
            raise ArtifactError(f"{pack.folder}: no {SCORES!r} to score with; expected it; run dmedge export again")
    for tensor, names in (("pixels", pack.images), ("ids", pack.texts)):
        for case in range(len(names)):
            pack.array(pack.holder(tensor), case, tensor)
    for name in pack.images:
        pack.picture(name)
