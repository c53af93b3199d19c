"""What the shipped way of compression costs and gains: size, latency, recall, before and after."""

import json
import tempfile
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from dmedge.artifact import Artifact
from dmedge.data.evalset import EvalSet
from dmedge.evidence.accuracy import evaluate
from dmedge.evidence.config import BenchConfig
from dmedge.model.costs import count_costs
from dmedge.runtime.encoder import Encoder
from dmedge.study.cells import Cell, Done, Result
from dmedge.study.context import Study

TARGET, RUNTIME = "linux-x86_64", "onnxruntime"  # what a study can time wherever it runs on such a machine
GOAL = 0.70  # of the latency of float32: 30 % less
CONVERGED = 0.99  # of the best accuracy on the validation pairs


def run_cost(study: Study) -> Done:
    """Compress the checkpoint to int8, export both, and time them in turns."""
    settings = {"target": TARGET, "runtime": RUNTIME, "rounds": study.config.bench_rounds, "goal": GOAL}
    settings |= study.source.settings
    return study.run(Cell("cost", settings, partial(_measure, study)))


def _measure(study: Study, folder: Path) -> Result:
    from dmedge.compress.config import CompressConfig
    from dmedge.compress.recipe import compress_artifact
    from dmedge.export.bundle import export_bundle
    from dmedge.export.config import ExportConfig
    from dmedge.flow.prove import bench

    with tempfile.TemporaryDirectory(prefix="dmedge-study-") as place:
        work = Path(place)
        calibration, shown = study.source.write_folders(work)
        how = CompressConfig(int8=True, ledger_texts=0, data=calibration)
        int8 = compress_artifact(study.artifact, how, work / "int8")
        bundle = export_bundle(int8, ExportConfig(target=TARGET, runtimes=(RUNTIME,)), work / "bundle")
        config = BenchConfig(rounds=max(2, study.config.bench_rounds), data=shown)
        timed = bench(bundle, config, work / "bench", baseline=study.artifact)
        report = _read(timed.file("bench.json"))
        recall = _recalls(study, bundle)
    programs = report["programs"]
    worst = max(row["ratio"]["value"] for row in programs.values())
    return {
        "programs": programs,
        "size": report["size"],
        "start": {side: row["load_ms"] for side, row in report["start"].items() if "load_ms" in row},
        "host": report["host"],
        **recall,
        "costs": asdict(count_costs(study.checkpoint.model)),
        "goal": {
            "limit": GOAL,
            "worst_ratio": worst,
            "reached": {name: row["ratio"]["high"] <= GOAL for name, row in programs.items()},
        },
    }


def _recalls(study: Study, bundle: Artifact) -> Result:
    """Recall@10 of both sides, and over how many texts; nothing where texts do not say what a picture shows."""
    if not study.source.describes:
        return {}
    data = study.source.small_gallery()
    sides = {"fp32": study.artifact, "int8": bundle}
    return {
        "recall_at_10": {name: _recall(artifact, data) for name, artifact in sides.items()},
        "texts": len(data.texts),
    }


def _recall(artifact: Artifact, data: EvalSet) -> float:
    """Recall@10 of text to image, the mean over locales."""
    with Encoder(artifact, show_progress=False) as encoder:
        return evaluate(encoder, data).macro().recall_at_10


def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def epochs_to_converge(curve: list[list[float]], batch_size: int, pairs: int) -> float:
    """Passes over the training pairs until a run first has 99 % of its best accuracy."""
    best = max(accuracy for _, accuracy in curve)
    step = next(step for step, accuracy in curve if accuracy >= CONVERGED * best)
    return step * batch_size / pairs
