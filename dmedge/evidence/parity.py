"""Whether a bundle computes, in its own runtime, what torch computed when it was exported.

A bundle carries its conformance pack in `conformance/`, which an app can read as well:

* `cases.json`: `{"tolerances": {runtime: {program: number}}, "images": [file], "texts": [text]}`; files
  are relative to `conformance/`.
* `golden.npz`: for case i of a program, each input and output under `PROGRAM/i/NAME`. Pixels of
  `encode_image/i` are those of `images[i]` after preprocessing, ids of `encode_text/i` those of
  `texts[i]`, so the pack tests resizing and tokenising too; a program may have further cases.

The error of a case is the greatest absolute difference of an output over the greatest absolute
value of its golden counterpart, so that one tolerance fits embeddings, features and logits.
"""

import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dmedge.artifact import Artifact, Program
from dmedge.data.hf_tokenizer import open_tokenizer
from dmedge.data.transforms import Preprocess
from dmedge.errors import ArtifactError
from dmedge.runtime.encoder import context_length
from dmedge.runtime.session import Session
from dmedge.runtime.wire import Array

CASES, GOLDEN = "cases.json", "golden.npz"


@dataclass(frozen=True, slots=True)
class ProgramParity:
    """How far one program is from its golden outputs."""

    n: int  # cases
    max_error: float  # relative to the largest golden value; inf if an output is not finite
    min_cosine: float
    tolerance: float

    @property
    def is_within(self) -> bool:
        """Whether every output of every case is near enough."""
        return self.max_error <= self.tolerance


@dataclass(frozen=True, slots=True)
class ParityReport:
    """Every program against its golden outputs, every picture and text against its golden inputs."""

    programs: Mapping[str, ProgramParity]
    images: int  # golden pictures
    images_differing: tuple[str, ...]  # files whose pixels after preprocessing are not the golden ones
    texts: int  # golden texts
    texts_differing: tuple[str, ...]  # whose token ids are not the golden ones

    @property
    def error_ratio(self) -> float:
        """Greatest error over its tolerance; inf when a golden input differs or nothing was compared."""
        if self.images_differing or self.texts_differing or not self.programs:
            return float("inf")
        return max(row.max_error / row.tolerance for row in self.programs.values())

    def to_json(self) -> dict[str, Any]:
        """The figures by name; an error that is not finite is None."""
        rows = {name: asdict(row) | {"max_error": _plain(row.max_error)} for name, row in self.programs.items()}
        return asdict(self) | {"programs": rows, "error_ratio": _plain(self.error_ratio)}


def check_parity(session: Session, bundle: Artifact) -> ParityReport:
    """Run the conformance pack of `bundle` by the programs of `session`.

    Raises:
        ArtifactError: the pack is missing, unreadable, or lacks a program.
    """
    folder = bundle.root / "conformance"
    cases, golden = _read_cases(folder), _read_golden(folder)
    programs = {
        program.name: _compare(
            session, program, golden, cases["tolerances"].get(program.runtime, {}).get(program.name), folder
        )
        for program in session.programs
    }
    return ParityReport(
        programs=programs,
        images=len(cases["images"]),
        images_differing=_images_differing(bundle, folder, cases["images"], golden),
        texts=len(cases["texts"]),
        texts_differing=_texts_differing(bundle, cases["texts"], golden),
    )


def golden_key(program: str, case: int, tensor: str) -> str:
    """Name of one array in golden.npz."""
    return f"{program}/{case}/{tensor}"


def output_error(golden: Array, found: Array) -> tuple[float, float]:
    """Error of one output relative to the largest golden value, and the cosine of the two; inf and 0 if not finite."""
    if golden.shape != found.shape or not np.isfinite(found).all():
        return float("inf"), 0.0
    want, got = golden.astype(np.float64).ravel(), found.astype(np.float64).ravel()
    scale = np.abs(want).max(initial=0.0) or 1.0
    norms = np.linalg.norm(want) * np.linalg.norm(got)
    cosine = float(want @ got / norms) if norms else float(np.array_equal(want, got))
    return float(np.abs(want - got).max(initial=0.0) / scale), cosine


def _compare(
    session: Session, program: Program, golden: Mapping[str, Array], tolerance: object, folder: Path
) -> ProgramParity:
    n = sum(1 for key in golden if key.startswith(f"{program.name}/") and key.endswith(f"/{program.inputs[0].name}"))
    if not n or not isinstance(tolerance, (int, float)) or tolerance <= 0:
        raise ArtifactError(
            f"{folder}: {n} golden cases and tolerance {tolerance!r} for {program.name}; "
            "expected one case and a positive tolerance at least; run dmedge export again"
        )
    errors = []
    for case in range(n):
        try:
            inputs = [golden[golden_key(program.name, case, spec.name)] for spec in program.inputs]
            wanted = [golden[golden_key(program.name, case, spec.name)] for spec in program.outputs]
        except KeyError as error:
            raise ArtifactError(f"{folder / GOLDEN}: lacks {error}; run dmedge export again") from error
        errors += [output_error(want, got) for want, got in zip(wanted, session.run(program.name, inputs), strict=True)]
    greatest, cosines = [error for error, _ in errors], [cosine for _, cosine in errors]
    return ProgramParity(n, max(greatest), min(cosines), float(tolerance))


def _images_differing(
    bundle: Artifact, folder: Path, files: Sequence[str], golden: Mapping[str, Array]
) -> tuple[str, ...]:
    preprocess = Preprocess.from_json(json.loads(bundle.file("preprocessor_config.json").read_text(encoding="utf-8")))
    differing = []
    for case, name in enumerate(files):
        with Image.open(folder / name) as image:
            pixels = preprocess(image)
        if not np.array_equal(pixels[None], golden[golden_key("encode_image", case, "pixels")]):
            differing.append(name)
    return tuple(differing)


def _texts_differing(bundle: Artifact, texts: Sequence[str], golden: Mapping[str, Array]) -> tuple[str, ...]:
    tokenizer = open_tokenizer(bundle, context_length(bundle))
    differing = []
    for case, text in enumerate(texts):
        wanted = [golden[golden_key("encode_text", case, name)] for name in ("ids", "mask")]
        if not all(map(np.array_equal, tokenizer.batch([text]), wanted)):
            differing.append(text)
    return tuple(differing)


def _read_cases(folder: Path) -> dict[str, Any]:
    try:
        cases: dict[str, Any] = json.loads((folder / CASES).read_text(encoding="utf-8"))
        tolerances = {runtime: dict(limits) for runtime, limits in cases["tolerances"].items()}
        return {"tolerances": tolerances, "images": list(cases["images"]), "texts": list(cases["texts"])}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(f"{folder / CASES}: {error!r}; expected a conformance pack; run dmedge export") from error


def _read_golden(folder: Path) -> dict[str, Array]:
    try:
        with np.load(folder / GOLDEN, allow_pickle=False) as archive:
            return dict(archive)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise ArtifactError(f"{folder / GOLDEN}: {error}; expected golden arrays; run dmedge export") from error


def _plain(number: float) -> float | None:
    return number if np.isfinite(number) else None
