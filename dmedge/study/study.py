"""The `study` stage: all cells of a study, and the page that is drawn from them."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path

from dmedge.artifact import Artifact, new_artifact
from dmedge.errors import ArtifactError
from dmedge.evidence.baseline import is_float
from dmedge.manifest import MANIFEST_NAME
from dmedge.study.attention import run_attention
from dmedge.study.cells import RESULT
from dmedge.study.config import StudyConfig
from dmedge.study.context import Study
from dmedge.study.cost import run_cost
from dmedge.study.errors import run_errors
from dmedge.study.findings import Findings, summarise
from dmedge.study.long_text import run_long_text
from dmedge.study.page import to_html, to_markdown
from dmedge.study.retrieval import run_retrieval
from dmedge.study.robustness import run_robustness
from dmedge.study.scratch import run_comparison
from dmedge.study.sections import sections
from dmedge.study.turns import run_turns
from dmedge.study.variants import run_variants

PAGE, TEXT, FIGURES = "study.html", "study.md", "study.json"


def study(checkpoint: Artifact, config: StudyConfig, out: Path) -> Artifact:
    """Measure everything, and write the page, its text and its figures to `out`.

    Finished cells are kept in `out`.steps, so a study that was stopped repeats none of them.

    Args:
        checkpoint: a float model whose towers stay as they are; for the embedded data one that was trained on it.
        config: how much of everything.
        out: directory to create.

    Raises:
        ArtifactError: `out` exists, or the checkpoint is quantized, or not for the data.
        DataError: records cannot be read, or are too few.
    """
    if not is_float(checkpoint.manifest):
        raise ArtifactError(
            f"{checkpoint.root}: is quantized, and has no gradients; expected a float checkpoint; name the one it was "
            "made from"
        )
    with new_artifact(out) as draft:
        run = Study(config, checkpoint, out.with_name(f"{out.name}.steps"))
        run.source.check(run.checkpoint, checkpoint)
        found = run_cells(run)
        cells = found.all_cells()
        for done in cells:
            place = draft.path / "cells" / done.artifact.name
            place.mkdir(parents=True)
            shutil.copyfile(done.artifact.root / MANIFEST_NAME, place / MANIFEST_NAME)
            shutil.copyfile(done.artifact.file(RESULT), place / RESULT)
        parts = sections(run, found)
        summary = summarise(run, found)
        (draft.path / PAGE).write_text(to_html(run, parts, summary), encoding="utf-8")
        (draft.path / TEXT).write_text(to_markdown(run, parts, summary), encoding="utf-8")
        figures = {"summary": summary, "cells": {done.name: done.result for done in cells}}
        text = json.dumps(figures, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        (draft.path / FIGURES).write_text(text, encoding="utf-8")
        return draft.finish(
            kind="evidence",
            stage="study",
            config=asdict(config),
            parents=dict(run.parents) | {f"cell {done.name}": done.artifact.digest for done in cells},
            summary=summary,
            languages=checkpoint.manifest.languages,
        )


def run_cells(run: Study) -> Findings:
    """All cells, the cheap ones first."""
    variants = run_variants(run)
    return Findings(
        variants=variants,
        retrieval=run_retrieval(run),
        long_text=run_long_text(run),
        errors=run_errors(run, variants[run.design]),
        attention=run_attention(run),
        robustness=run_robustness(run, variants),
        cost=run_cost(run),
        comparison=run_comparison(run),
        turns=run_turns(run),
    )
