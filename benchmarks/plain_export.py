"""Models as dmedge exports them beside the same weights exported the plain way, in turns.

Run it with `python -m benchmarks.plain_export`, or for the model that ships alone with `--models emoji --out
benchmarks/results/plain_export_own.json`; a part of it, by `--precisions` or `--runtime`, takes the place of that part
in a file that the same machine and tools wrote. `benchmarks.plain_own` and `benchmarks.plain_imported` say what the
plain way is; imported models have random weights. Both sides hold one program, take one picture or texts of any length
on a thread, and are loaded anew several times. The plain programs of imported models are spared the scaling of pixels,
which happens before they are timed, and a mask. Parity is the greatest difference of an embedding from that of the
original in float32, and its least cosine.
"""

import argparse
import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.export import Dim

from benchmarks.plain_imported import imported_subjects
from benchmarks.plain_own import own_subject
from benchmarks.plain_subject import FILES, Plain, Row, Shapes, Subject
from dmedge.artifact import Artifact, Program, TensorSpec, new_artifact
from dmedge.compress.recipe import compress_artifact
from dmedge.environment import host_facts, tool_versions
from dmedge.evidence.latency import Case, Paired, join, measure, paired_ratio
from dmedge.export.bundle import export_bundle
from dmedge.export.config import ExportConfig
from dmedge.export.quiet import quiet
from dmedge.manifest import Runtime
from dmedge.runtime.session import Session, open_session
from dmedge.runtime.wire import Array
from dmedge.variants import Variant

RESULTS = Path(__file__).parent / "results"
RUNTIMES: tuple[Runtime, ...] = ("executorch", "onnxruntime")
ALONE: Mapping[str, Variant] = {"encode_image": "image-only", "encode_text": "text-only"}
REPEATS = 5  # in new processes, which have luck of their own
OWN, IMPORTED = ("emoji",), ("clip", "siglip", "vit-bert")


def subjects(names: list[str], place: Path) -> Iterator[Subject]:
    """The models of these names."""
    yield from (own_subject(name) for name in OWN if name in names)
    if set(IMPORTED) & set(names):
        yield from (subject for subject in imported_subjects(place) if subject.name in names)


def plain_bundle(subject: Subject, program: str, runtime: Runtime, precision: str, out: Path) -> Artifact:
    """One program of an original by a plain exporter, in a directory that a session opens."""
    rows = subject.plain[program]
    free = {1: Dim("length", min=2, max=subject.longest)}
    shapes: Shapes = {name: free if array.ndim == 2 else {} for name, array in rows[0].items()}
    half = subject.halves[program].eval()
    example, *calibration = (_tensors(row) for row in (rows[0], *subject.calibration[program]))
    with new_artifact(out) as draft:
        plain = Plain(half, example, calibration, shapes, precision, subject.outputs)
        names = subject.writers[runtime](plain, draft.path)
        inputs = tuple(
            TensorSpec(
                name,
                tuple("length" if axis in shapes[name] else size for axis, size in enumerate(array.shape)),
                str(array.dtype),
            )
            for name, array in rows[0].items()
        )
        outputs = tuple(TensorSpec(name, ("any",), "float32") for name in names)
        programs = (Program("forward", FILES[runtime], runtime, inputs, outputs),)
        return draft.finish(kind="bundle", stage="benchmark", config={}, programs=programs)


def _tensors(row: Row) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(array) for name, array in row.items()}


class As:
    """The session of a plain program under the name that ours has."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def time(self, _: str, inputs: Any, runs: int) -> Any:
        """See `Session.time`."""
        return self._session.time("forward", inputs, runs)


def parity(session: Session, program: str, inputs: list[list[Array]], wanted: Array) -> dict[str, float]:
    """Greatest difference from the original, and least cosine."""
    found = np.concatenate([session.run(program, row)[0] for row in inputs])
    return {"max_abs": float(np.abs(found - wanted).max()), "cosine": float((found * wanted).sum(1).min())}


@torch.inference_mode()
def original_embeddings(subject: Subject, program: str) -> Array:
    """Of every sample, float32 [SAMPLES, D]."""
    found = [subject.halves[program](**_tensors(row)) for row in subject.plain[program]]
    return torch.cat([out[0] if isinstance(out, tuple) else out for out in found]).numpy()


def compared(
    subject: Subject, precision: str, runtimes: tuple[Runtime, ...], place: Path, rounds: int
) -> Iterator[dict[str, Any]]:
    """A row for each runtime and program."""
    checkpoint = subject.checkpoint(place / f"{subject.name}-{precision}")
    if precision == "int8":
        checkpoint = compress_artifact(checkpoint, subject.int8, place / f"{subject.name}-rounded")
    bundles = {
        program: export_bundle(
            checkpoint,
            ExportConfig(target="linux-x86_64", runtimes=runtimes, variant=variant),
            place / f"{subject.name}-{precision}-{variant}",
        )
        for program, variant in ALONE.items()
    }
    for runtime in runtimes:
        for program in subject.halves:
            with quiet():
                out = place / f"{subject.name}-{precision}-{runtime}-{program}"
                ours, plain = bundles[program], plain_bundle(subject, program, runtime, precision, out)
            fed = [list(row.values()) for row in subject.plain[program]]
            case = Case(program, program, subject.ours[program], fed)
            wanted = original_embeddings(subject, program)
            repeats: list[Paired] = []
            for _ in range(REPEATS):
                with open_session(ours, runtime=runtime) as session, open_session(plain) as other:
                    runs = repeats[0].runs if repeats else None
                    repeats.append(measure(session, As(other), case, rounds=rounds, runs=runs))  # type: ignore[arg-type]
                    near = {
                        "ours": parity(session, program, subject.ours[program], wanted),
                        "plain": parity(other, "forward", fed, wanted),
                    }
                    written = {own.file for own in session.programs}
            paired = join(repeats)
            ratio = paired_ratio(paired)
            yield {
                **{"model": subject.name, "precision": precision, "runtime": runtime, "program": program},
                "ours_ms": float(np.median(paired.artifact_ns)) / 1e6,
                "plain_ms": float(np.median(paired.baseline_ns)) / 1e6,
                **{"ratio": ratio.value, "low": ratio.low, "high": ratio.high, "repeats": ratio.repeats},
                **near,
                "bytes": {
                    "ours": sum(ours.manifest.files[file].size_bytes for file in written),
                    "plain": sum(file.size_bytes for file in plain.manifest.files.values()),
                },
            }


def shown(row: Mapping[str, Any]) -> str:
    """One line of a table in Markdown."""
    sides = " | ".join(f"{row[side]['max_abs']:.1e} | {row[side]['cosine']:.5f}" for side in ("ours", "plain"))
    return (
        f"| {row['model']} | {row['precision']} | {row['runtime']} | {row['program']} | {row['ours_ms']:.2f} | "
        f"{row['plain_ms']:.2f} | {row['ratio']:.2f} ({row['low']:.2f}-{row['high']:.2f}) | {sides} |"
    )


def kept(out: Path, table: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rows of an older run with nothing but its rows different, as far as this one has none of the kind."""
    older = json.loads(out.read_text(encoding="utf-8")) if out.exists() else {"rows": []}
    if older | {"rows": []} != {**table, "rows": []}:
        return []
    measured = {_kind(row) for row in table["rows"]}
    return [row for row in older["rows"] if _kind(row) not in measured]


def _kind(row: Mapping[str, Any]) -> tuple[str, ...]:
    return row["model"], row["precision"], row["runtime"]


def main() -> None:
    """Print and store a ratio and both parities per model, precision, runtime and program."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10, help="of each repeat [default: %(default)s]")
    parser.add_argument("--models", default=",".join((*OWN, *IMPORTED)))
    parser.add_argument("--precisions", default="float32,int8")
    parser.add_argument("--runtime", action="append", choices=RUNTIMES, dest="runtimes", help="[default: both]")
    parser.add_argument("--out", type=Path, default=RESULTS / "plain_export.json")
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    rows, runtimes = [], tuple(options.runtimes or RUNTIMES)
    with tempfile.TemporaryDirectory() as folder:
        for subject in subjects(options.models.split(","), Path(folder)):
            for precision in options.precisions.split(","):
                for row in compared(subject, precision, runtimes, Path(folder), options.rounds):
                    rows.append(row)
                    print(shown(row), flush=True)
    table = {"host": host_facts(), "tools": tool_versions(), "rounds": options.rounds, "rows": rows}
    rows[:0] = kept(options.out, table)
    options.out.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
