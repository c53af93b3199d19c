"""Export every kind of checkpoint for every engine of every target, and prove each bundle wherever it can run here.

    python tools/matrix.py --out runs/matrix [--target android ...] [--checkpoint emoji ...]

Checkpoints are the one that ships, its int8, its child with the vocabulary of four languages, and tiny random models
imported from CLIP and SigLIP. A bundle is proven by its conformance pack: on this machine, on emulated arm64, in
Chromium, or by the interpreter of Core ML programs. What was done before, by the same tools, is kept. Every cell is
exported in a process of its own, so that its memory is its own. Writes OUT/matrix.md and OUT/matrix.json.
Exit status: 0 every bundle is proven or refused for a reason that is named, 3 one computes something else, or broke.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from dmedge.artifact import Artifact, load_artifact, program_bytes
from dmedge.devices.names import EMULATED, WEB
from dmedge.environment import tool_versions
from dmedge.errors import DmedgeError, ExportError
from dmedge.export.costs import read_costs
from dmedge.export.targets import TARGETS
from dmedge.flow.atomic import write_atomically
from dmedge.flow.conform import conform_on
from dmedge.logs import configure, progress

ROOT = Path(__file__).parent.parent
LANGUAGES = ("en", "hi", "sw", "zh")  # of the trimmed child
PROVEN, REFUSED, NOT_HERE, WRONG, BROKEN = "proven", "refused", "not proven here", "differs", "broke"
BUG = "report this"  # ends the errors of an export that should have worked
Maker = Callable[[Path], Artifact]


def _compressed(**settings: Any) -> Maker:
    def make(out: Path) -> Artifact:
        from dmedge.compress.recipe import CompressConfig, compress_artifact

        return compress_artifact(load_artifact("emoji"), CompressConfig(ledger_texts=0, **settings), out)

    return make


def _imported(kind: str) -> Maker:
    def make(out: Path) -> Artifact:
        from dmedge.model.hf_import import import_checkpoint

        sys.path.insert(0, str(ROOT))
        from tests.tiny_hf import DUALS

        original = out.with_name(f"{out.name}-original")
        return import_checkpoint(original if original.is_dir() else DUALS[kind](original), out)

    return make


CHECKPOINTS: Mapping[str, Maker] = {
    "emoji": lambda out: load_artifact("emoji"),
    "emoji-int8": _compressed(int8=True),
    "emoji-trimmed": _compressed(languages=LANGUAGES),
    "tiny-clip": _imported("clip"),
    "tiny-siglip": _imported("siglip"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """What came of one checkpoint in one engine of one target."""

    target: str
    engine: str
    checkpoint: str
    checkpoint_sha256: str
    tools: Mapping[str, str]
    verdict: str  # one of those above
    reason: str = ""  # of what is refused, differs, broke, or is not here
    proofs: Mapping[str, float] | None = None  # device -> greatest error on the conformance pack
    program_bytes: int = 0
    max_error: float | None = None
    seconds: float = 0.0  # of the export
    proof_seconds: float = 0.0
    peak_rss_bytes: int | None = None  # of the export


@dataclass(frozen=True, slots=True)
class Task:
    """One cell to fill."""

    target: str
    engine: str
    runtime: str
    checkpoint: str
    parent: Path
    digest: str
    out: Path  # of the bundle; its result lies beside it
    devices: tuple[str, ...]

    @property
    def result(self) -> Path:
        """Where the cell is kept."""
        return self.out.with_name(f"{self.out.name}.json")


def devices_of(target: str, runtime: str) -> tuple[str, ...]:
    """Where the bundles of a target can be proven."""
    if target == "web":
        return ("local", WEB)
    is_arm = target in ("android", "linux-arm64") and runtime in ("executorch", "onnxruntime")
    return ("local", *EMULATED) if is_arm else ("local",)


def make_tasks(out: Path, targets: Sequence[str], parents: Mapping[str, Artifact]) -> list[Task]:
    """Every cell, one checkpoint after the other."""
    return [
        Task(
            target,
            engine,
            runtime,
            name,
            parent.root,
            parent.digest,
            out / "cells" / f"{name}-{target}-{engine}",
            devices_of(target, runtime),
        )
        for name, parent in parents.items()
        for target in targets
        for engine, runtime in zip(TARGETS[target].engines, TARGETS[target].runtimes, strict=True)
    ]


def fill(task: Task) -> Cell:
    """Export one bundle, or take the one that stands, and prove it."""
    facts: dict[str, Any] = {
        "target": task.target,
        "engine": task.engine,
        "checkpoint": task.checkpoint,
        "checkpoint_sha256": task.digest,
        "tools": tool_versions(),
    }
    try:
        bundle = _bundle(task)
    except DmedgeError as error:
        is_refused = isinstance(error, ExportError) and BUG not in str(error)
        return Cell(
            verdict=REFUSED if is_refused else BROKEN, reason=str(error).removeprefix(f"{task.parent}: "), **facts
        )
    costs = read_costs(bundle) or {"seconds": 0.0, "engines": {}}
    facts |= {
        "program_bytes": program_bytes(bundle),
        "seconds": costs["seconds"],
        "peak_rss_bytes": costs["engines"].get(task.runtime, {}).get("peak_rss_bytes"),
    }
    start, proofs, wrong, missing = time.perf_counter(), {}, [], []
    for device in task.devices:
        try:
            found = conform_on(bundle, device, runtime=task.runtime)
        except DmedgeError as error:
            missing.append(f"{device}: {error}")
            continue
        proofs[device] = max(row.max_error for row in found.parity.rows.values())
        wrong += [f"{device}: {failure}" for failure in found.failures]
    verdict = WRONG if wrong else NOT_HERE if missing else PROVEN
    return Cell(
        verdict=verdict,
        reason="; ".join(wrong or missing),
        proofs=proofs,
        max_error=max(proofs.values(), default=None),
        proof_seconds=round(time.perf_counter() - start, 1),
        **facts,
    )


def _bundle(task: Task) -> Artifact:
    from dmedge.export.bundle import ExportConfig, export_bundle

    if task.out.is_dir():
        bundle = load_artifact(task.out, kind="bundle")
        if bundle.manifest.parents["parent"] == task.digest and dict(bundle.manifest.tools) == tool_versions():
            return bundle
        raise DmedgeError(f"{task.out}: made of another checkpoint or by other tools; expected none; remove it")
    config = ExportConfig(target=task.target, runtimes=(task.runtime,))
    return export_bundle(load_artifact(task.parent, kind="checkpoint"), config, task.out)


def kept(task: Task) -> Cell | None:
    """The cell as it was filled before, if by the same tools from the same checkpoint, and not broken."""
    if not task.result.is_file():
        return None
    cell = Cell(**json.loads(task.result.read_text(encoding="utf-8")))
    is_same = cell.checkpoint_sha256 == task.digest and dict(cell.tools) == tool_versions()
    return cell if is_same and cell.verdict in (PROVEN, REFUSED) else None


def run_matrix(out: Path, targets: Sequence[str], makers: Mapping[str, Maker], *, apart: bool = True) -> list[Cell]:
    """Fill every cell that is not filled, and write the table after each of them.

    Args:
        out: of the table, the checkpoints and the bundles.
        targets: of `dmedge.export.targets`.
        makers: checkpoint -> what makes it in the folder that it is given.
        apart: whether every cell gets a process of its own.
    """
    (out / "cells").mkdir(parents=True, exist_ok=True)
    parents = {name: _parent(out / "checkpoints" / name, make) for name, make in makers.items()}
    tasks, cells = make_tasks(out, targets, parents), []
    with progress("matrix", len(tasks)) as advance:
        for task in tasks:
            advance(0, task.out.name)
            cell = kept(task)
            if cell is None:
                cell = _apart(task) if apart else fill(task)
                _write(task.result, json.dumps(asdict(cell), indent=1) + "\n")
            cells.append(cell)
            write_tables(out, cells)
            advance(1, f"{task.out.name}: {cell.verdict}")
    return cells


def _parent(place: Path, make: Maker) -> Artifact:
    place.parent.mkdir(parents=True, exist_ok=True)
    return load_artifact(place, kind="checkpoint") if place.is_dir() else make(place)


def _apart(task: Task) -> Cell:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(fill, task).result()


def write_tables(out: Path, cells: Sequence[Cell]) -> None:
    """Write matrix.json and matrix.md."""
    _write(out / "matrix.json", json.dumps([asdict(cell) for cell in cells], indent=1) + "\n")
    _write(out / "matrix.md", "".join(f"{line}\n" for line in table_lines(cells)))


def table_lines(cells: Sequence[Cell]) -> Iterator[str]:
    """The table in Markdown."""
    yield "| target | engine | checkpoint | programs | greatest error | verdict | export | its memory |"
    yield "|---|---|---|---|---|---|---|---|"
    for cell in cells:
        proofs = f": {', '.join(cell.proofs)}" if cell.proofs else ""
        reason = f"{';' if proofs else ':'} {_brief(cell.reason)}" if cell.reason else ""
        columns = [
            cell.target,
            cell.engine,
            cell.checkpoint,
            f"{cell.program_bytes / 1e6:.2f} MB" if cell.program_bytes else "",
            "" if cell.max_error is None else f"{cell.max_error:.1g}",
            f"{cell.verdict}{proofs}{reason}",
            f"{cell.seconds:.0f} s" if cell.seconds else "",
            f"{cell.peak_rss_bytes / 1e6:,.0f} MB" if cell.peak_rss_bytes else "",
        ]
        yield f"| {' | '.join(columns)} |"


def _brief(reason: str) -> str:
    return reason.replace("|", "\\|")


def _write(path: Path, text: str) -> None:
    write_atomically(path, lambda stream: stream.write(text.encode("utf-8")))


def main() -> None:
    """Run what the arguments ask for."""
    parser = argparse.ArgumentParser(description="Every target with every kind of checkpoint.")
    parser.add_argument("--out", type=Path, default=Path("runs/matrix"))
    parser.add_argument("--target", action="append", choices=list(TARGETS), dest="targets", help="[default: all]")
    parser.add_argument("--checkpoint", action="append", choices=list(CHECKPOINTS), dest="names", help="[default: all]")
    chosen = parser.parse_args()
    configure()
    makers = {name: make for name, make in CHECKPOINTS.items() if name in (chosen.names or CHECKPOINTS)}
    cells = run_matrix(chosen.out, chosen.targets or list(TARGETS), makers)
    print("\n".join(table_lines(cells)))
    if any(cell.verdict in (WRONG, BROKEN) for cell in cells):
        sys.exit(3)


if __name__ == "__main__":
    main()
