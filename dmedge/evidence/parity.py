"""Whether a bundle computes, in its own runtime, what torch computed when it was exported.

The error of a case is the greatest absolute difference of an output over the greatest absolute
value of its golden counterpart, so that one tolerance fits embeddings, features and logits. Two outputs
may be near zero for a picture and are compared with more: the scores of prompts with 1, which is the
most that they can be, and the logits of `fuse_pair` with the greatest among all cases.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from dmedge.artifact import Artifact, Program
from dmedge.data.hf_tokenizer import open_tokenizer
from dmedge.data.transforms import Preprocess
from dmedge.evidence.pack import SCORES, Pack, brief_text, check_pack, golden_key, read_pack
from dmedge.runtime.front_end import context_length
from dmedge.runtime.session import Session
from dmedge.runtime.wire import Array

__all__ = [
    "Difference",
    "ParityReport",
    "ProgramParity",
    "check_parity",
    "first_difference",
    "first_token",
    "golden_key",
    "golden_scales",
    "output_error",
]


@dataclass(frozen=True, slots=True)
class Difference:
    """The first place where something is not as the pack has it."""

    case: int
    input: str  # the picture, the text, or both
    tensor: str
    index: tuple[int, ...]  # in the tensor; empty where even the shape differs
    expected: float | str
    found: float | str

    def __str__(self) -> str:
        place = f"{self.tensor}[{', '.join(map(str, self.index))}]" if self.index else self.tensor
        return f"case {self.case}, {self.input}: {place} is {_number(self.found)}; expected {_number(self.expected)}"


@dataclass(frozen=True, slots=True)
class ProgramParity:
    """How far one program, or the scores, are from the golden ones."""

    n: int  # cases
    max_error: float  # relative to the largest golden value; inf if an output is not finite
    min_cosine: float
    tolerance: float
    first: Difference | None = None  # beyond the tolerance

    @property
    def is_within(self) -> bool:
        """Whether every output of every case is near enough."""
        return self.max_error <= self.tolerance

    def to_json(self) -> dict[str, Any]:
        """The figures by name; what is not finite is None or text."""
        return asdict(self) | {"max_error": _plain(self.max_error), "first": _difference_json(self.first)}


@dataclass(frozen=True, slots=True)
class ParityReport:
    """Every program against its golden outputs, every picture and text against its golden inputs."""

    programs: Mapping[str, ProgramParity]
    scores: ProgramParity | None  # of every golden text for every golden picture; None without both encoders
    images: int  # golden pictures
    images_differing: tuple[str, ...]  # files whose pixels after preprocessing are not the golden ones
    texts: int  # golden texts
    texts_differing: tuple[str, ...]  # whose token ids are not the golden ones
    first_pixel: Difference | None = None  # of the first differing picture
    first_token: Difference | None = None  # of the first differing text

    @property
    def error_ratio(self) -> float:
        """Greatest error over its tolerance; inf when a golden input differs or nothing was compared."""
        if self.images_differing or self.texts_differing or not self.programs:
            return float("inf")
        return max(row.max_error / row.tolerance for row in self.rows.values())

    @property
    def rows(self) -> Mapping[str, ProgramParity]:
        """All comparisons by name, the scores last."""
        return dict(self.programs) | ({} if self.scores is None else {SCORES: self.scores})

    @property
    def first(self) -> tuple[str, Difference] | None:
        """What differs first along the way of an app, and where: pixels and token ids come before outputs."""
        rows = {"pixels": self.first_pixel, "token ids": self.first_token}
        rows |= {name: row.first for name, row in self.rows.items()}
        return next(((name, found) for name, found in rows.items() if found is not None), None)

    def to_json(self) -> dict[str, Any]:
        """The figures by name; an error that is not finite is None."""
        return asdict(self) | {
            "programs": {name: row.to_json() for name, row in self.programs.items()},
            "scores": None if self.scores is None else self.scores.to_json(),
            "first_pixel": _difference_json(self.first_pixel),
            "first_token": _difference_json(self.first_token),
            "error_ratio": _plain(self.error_ratio),
        }


def check_parity(session: Session, bundle: Artifact) -> ParityReport:
    """Run the conformance pack of `bundle` by the programs of `session`, wherever that runs them.

    Raises:
        ArtifactError: the pack is missing, unreadable, or lacks what it takes to judge a program.
    """
    pack = read_pack(bundle)
    check_pack(pack, session.programs)
    found = {program.name: session.run_many(program.name, pack.inputs(program)) for program in session.programs}
    runtime = session.programs[0].runtime if session.programs else ""
    images_differing, first_pixel = _images_differing(bundle, pack)
    texts_differing, first_token = _texts_differing(bundle, pack)
    return ParityReport(
        programs={program.name: _compare(pack, program, found[program.name]) for program in session.programs},
        scores=_compare_scores(pack, runtime, found) if {"encode_image", "encode_text"} <= found.keys() else None,
        images=len(pack.images),
        images_differing=images_differing,
        texts=len(pack.texts),
        texts_differing=texts_differing,
        first_pixel=first_pixel,
        first_token=first_token,
    )


def output_error(golden: Array, found: Array, scale: float | None = None) -> tuple[float, float]:
    """Error of one output relative to `scale`, and the cosine of the two; inf and 0 if not finite.

    Args:
        scale: [default: the largest golden value].
    """
    if golden.shape != found.shape or not (np.isfinite(found).all() and np.isfinite(golden).all()):
        return float("inf"), 0.0
    want, got = golden.astype(np.float64).ravel(), found.astype(np.float64).ravel()
    norms = np.linalg.norm(want) * np.linalg.norm(got)
    cosine = float(want @ got / norms) if norms else float(np.array_equal(want, got))
    return float(np.abs(want - got).max(initial=0.0) / (scale or _largest(want))), cosine


def golden_scales(pack: Pack, program: Program) -> dict[str, float]:
    """Output -> what its errors are relative to in every case, for those where that is not its own largest value."""
    if program.name == "classify":
        return {SCORES: 1.0}
    if program.name != "fuse_pair":
        return {}
    keys = {
        spec.name: [golden_key(program.name, i, spec.name) for i in range(pack.count(program))]
        for spec in program.outputs
    }
    return {name: max(_largest(pack.golden[key]) for key in own if key in pack.golden) for name, own in keys.items()}


def _largest(golden: Array) -> float:
    return float(np.abs(golden[np.isfinite(golden)]).max(initial=0.0)) or 1.0


def _compare(pack: Pack, program: Program, found: Sequence[Sequence[Array]]) -> ProgramParity:
    """Every output that the pack holds; of the large ones it holds a few."""
    tolerance, scales = pack.tolerance(program.runtime, program.name), golden_scales(pack, program)
    errors, first = [], None
    for case, outputs in enumerate(found):
        for spec, got in zip(program.outputs, outputs, strict=True):
            want = pack.golden.get(golden_key(program.name, case, spec.name))
            if want is None:
                continue
            scale = scales.get(spec.name)
            errors.append(output_error(want, got, scale))
            if first is None and not errors[-1][0] <= tolerance:
                place = pack.input_name(program.name, case)
                first = first_difference(case, place, spec.name, want, got, tolerance, scale)
    greatest, cosines = [error for error, _ in errors], [cosine for _, cosine in errors]
    return ProgramParity(len(found), max(greatest), min(cosines), tolerance, first)


def _compare_scores(pack: Pack, runtime: str, found: Mapping[str, Sequence[Sequence[Array]]]) -> ProgramParity:
    """The dot product of every golden text and picture, which is what an app ranks by."""
    tolerance, golden, name = pack.tolerance(runtime, SCORES), pack.golden[SCORES], "every text with every picture"
    images = [row[0] for row in found["encode_image"][: len(pack.images)]]
    texts = [row[0] for row in found["encode_text"][: len(pack.texts)]]
    shapes = {row.shape for row in (*images, *texts)}
    if len(shapes) > 1 or any(len(shape) != 2 for shape in shapes):
        none = Difference(0, name, SCORES, (), _shape(golden), f"none, of embeddings of the shapes {sorted(shapes)}")
        return ProgramParity(golden.size, float("inf"), 0.0, tolerance, none)
    with np.errstate(invalid="ignore"):  # what is not finite is an error without bounds
        scores = np.concatenate(texts) @ np.concatenate(images).T
    greatest, cosine = output_error(golden, scores)
    first = None
    if not greatest <= tolerance:
        first = first_difference(0, name, SCORES, golden, scores, tolerance)
        if first.index:
            text, image = first.index
            words = f"{pack.input_name('encode_text', text)} with {pack.input_name('encode_image', image)}"
            first = Difference(text, words, SCORES, first.index, first.expected, first.found)
    return ProgramParity(golden.size, greatest, cosine, tolerance, first)


def first_difference(
    case: int, name: str, tensor: str, want: Array, got: Array, tolerance: float, scale: float | None = None
) -> Difference:
    """The first number that is too far off, or the shapes where these differ."""
    if want.shape != got.shape:
        return Difference(case, name, tensor, (), _shape(want), _shape(got))
    far = ~(np.abs(want.astype(np.float64) - got) <= tolerance * (scale or _largest(want)))  # NaN is far off too
    index = tuple(np.argwhere(far)[0].tolist())
    return Difference(case, name, tensor, index, want[index].item(), got[index].item())


def _images_differing(bundle: Artifact, pack: Pack) -> tuple[tuple[str, ...], Difference | None]:
    if not pack.images:
        return (), None
    preprocess = Preprocess.from_json(json.loads(bundle.file("preprocessor_config.json").read_text(encoding="utf-8")))
    differing: list[str] = []
    first = None
    for case, name in enumerate(pack.images):
        pixels = preprocess(pack.picture(name))[None]
        want = pack.array(pack.holder("pixels"), case, "pixels")
        if not np.array_equal(pixels, want):
            differing.append(name)
            first = first or first_difference(case, name, "pixels", want, pixels, 0.0)
    return tuple(differing), first


def _texts_differing(bundle: Artifact, pack: Pack) -> tuple[tuple[str, ...], Difference | None]:
    if not pack.texts:
        return (), None
    tokenizer = open_tokenizer(bundle, context_length(bundle))
    differing: list[str] = []
    first = None
    for case, text in enumerate(pack.texts):
        for name, row in zip(("ids", "mask"), tokenizer.batch([text]), strict=True):
            want = pack.array(pack.holder("ids"), case, name)
            if not np.array_equal(row, want):
                first = first or first_token(case, text, name, want, row)
                differing += [text] if text not in differing[-1:] else []
    return tuple(differing), first


def first_token(case: int, text: str, name: str, want: Array, got: Array) -> Difference:
    """The first token that differs; a text of fewer tokens ends there."""
    a, b = want.ravel().tolist(), got.ravel().tolist()
    both = zip([*a, None], [*b, None], strict=False)
    index = next((i for i, (x, y) in enumerate(both) if x != y), min(len(a), len(b)))
    expected, found = (row[index] if index < len(row) else "the end of the text" for row in (a, b))
    return Difference(case, brief_text(text), name, (0, index), expected, found)


def _shape(array: Array) -> str:
    return f"{array.dtype.name}{list(array.shape)}"


def _number(value: float | str) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _difference_json(first: Difference | None) -> dict[str, Any] | None:
    if first is None:
        return None
    numbers = {name: value for name, value in (("expected", first.expected), ("found", first.found))}
    return asdict(first) | {
        name: str(value) if isinstance(value, float) and not np.isfinite(value) else value
        for name, value in numbers.items()
    }


def _plain(number: float) -> float | None:
    return number if np.isfinite(number) else None
