"""Cells of the heads: every variant with every seed, on the same features."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from dmedge.study.cells import Cell, Done, Result
from dmedge.study.context import Study
from dmedge.study.heads import (
    FUSIONS,
    PLAIN,
    StudyHead,
    Variant,
    logits_of,
    matched,
    parameters,
    predict,
    state_of,
    train_head,
)
from dmedge.study.scores import Figure, clustered, figures_of

HEAD = "head.safetensors"


def run_variants(study: Study) -> dict[str, list[Done]]:
    """Train every variant with every seed; fusions without votes have as many parameters as cross-attention."""
    model, members = study.checkpoint.model, study.members
    budget = parameters(StudyHead(model, FUSIONS[0], members))
    done: dict[str, list[Done]] = {}
    for variant in study.source.variants:
        fair = matched(model, variant, members, budget) if variant in (*FUSIONS[1:], PLAIN) else variant
        done[variant.name] = [study.run(_cell(study, fair, study.config.seed + k)) for k in range(study.config.seeds)]
    return done


def _cell(study: Study, variant: Variant, seed: int) -> Cell:
    config = study.config
    settings = {
        **study.task_settings(),
        "variant": asdict(variant),
        "head_seed": seed,
        "steps": config.head_steps,
        "batch_size": config.head_batch,
        "learning_rate": config.head_learning_rate,
    }

    def run(folder: Path) -> Result:
        torch.manual_seed(seed)
        head = StudyHead(study.checkpoint.model, variant, study.members)

        def judge(head: StudyHead) -> float:
            pairs = study.validation
            return float(np.mean(pairs.right(predict(head, pairs, study.validation_features))))

        found = train_head(
            head,
            (study.train, study.train_features),
            judge,
            steps=config.head_steps,
            batch_size=config.head_batch,
            learning_rate=config.head_learning_rate,
            seed=seed,
        )
        save_file(dict(state_of(head)), folder / HEAD)
        logits = logits_of(head, study.test, study.test_features)
        return {
            **found,
            "parameters": parameters(head),
            **figures_of(study.test, logits),
            "predicted": logits.argmax(1).tolist(),
        }

    return Cell(f"head-{variant.name}-{seed}", settings, run)


def load_head(study: Study, done: Done) -> StudyHead:
    """The trained head of a cell."""
    table = done.artifact.manifest.config["settings"]
    assert isinstance(table, Mapping)
    head = StudyHead(study.checkpoint.model, Variant(**table["variant"]), study.members)
    head.fusion.load_state_dict(load_file(done.artifact.file(HEAD)))
    return head.eval()


def correct(study: Study, runs: Sequence[Done]) -> NDArray[np.float64]:
    """[N] what the class that each run named for a test pair is worth, the mean of all runs."""
    right = [study.test.right(np.array(run.result["predicted"])) for run in runs]
    return np.stack(right).mean(0)  # type: ignore[no-any-return]


def accuracy(study: Study, runs: Sequence[Done]) -> Figure:
    """Accuracy over the runs of a variant."""
    return clustered(correct(study, runs), study.test.cluster)


def drop(study: Study, runs: Sequence[Done], reference: Sequence[Done]) -> Figure:
    """Accuracy of `runs` less that of `reference`, on the same pairs."""
    return clustered(correct(study, runs) - correct(study, reference), study.test.cluster)
