"""Cells of robustness: every variant on perturbed pairs, five strengths each."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from dmedge.data.emoji import load_pack
from dmedge.data.splits import cell_split
from dmedge.evidence.perturb_images import IMAGE_PERTURBATIONS
from dmedge.evidence.perturb_texts import TEXT_PERTURBATIONS, switch_code
from dmedge.evidence.strengths import STRENGTHS
from dmedge.study.cells import Cell, Done, Result
from dmedge.study.context import Study
from dmedge.study.features import Features, picture_features, text_features
from dmedge.study.heads import StudyHead, predict
from dmedge.study.pairs import Pairs
from dmedge.study.scores import clustered
from dmedge.study.variants import load_head

SWITCHING = "code-switching"


def run_robustness(study: Study, variants: Mapping[str, Sequence[Done]]) -> dict[str, Done]:
    """One cell for every perturbation; the heads are those that the variants trained with the first seed."""
    first = {name: runs[0] for name, runs in variants.items()}
    heads: dict[str, StudyHead] = {}  # loaded once, by the first cell that is not kept
    settings = {
        **study.task_settings(),
        "pairs": study.config.robustness_pairs,
        "heads": {name: run.artifact.digest for name, run in first.items()},
    }
    done = {}
    for kind in (*IMAGE_PERTURBATIONS, *TEXT_PERTURBATIONS, SWITCHING):
        run = partial(_measure, study, first, heads, kind)
        own = {"words": "keywords of held-out cells"} if kind == SWITCHING else {}
        done[kind] = study.run(Cell(f"robustness-{kind}", {**settings, "perturbation": kind, **own}, run))
    return done


def _measure(study: Study, first: Mapping[str, Done], heads: dict[str, StudyHead], kind: str, folder: Path) -> Result:
    """Accuracy of every variant at every strength; 0 is the pairs as they are."""
    if not heads:
        heads.update({name: load_head(study, run) for name, run in first.items()})
    pairs = some(study.test, study.config.robustness_pairs)
    longest = study.checkpoint.model.config.context_length
    clean = picture_features(study.checkpoint, pairs.pictures), text_features(study.checkpoint, pairs.texts, longest)
    curves: dict[str, list[dict[str, object]]] = {name: [] for name in heads}
    for strength in (0, *STRENGTHS):
        rng = np.random.default_rng([study.config.seed, strength])
        patches, texts = clean
        if strength and kind in IMAGE_PERTURBATIONS:
            perturbed = [IMAGE_PERTURBATIONS[kind](picture, strength, rng) for picture in pairs.pictures]
            patches = picture_features(study.checkpoint, np.stack(perturbed))
        elif strength:
            texts = text_features(study.checkpoint, _perturbed(pairs, kind, strength, rng), longest)
        features = Features(patches, *texts)
        for name, head in heads.items():
            right = (predict(head, pairs, features) == pairs.label).astype(np.float64)
            curves[name].append({"strength": strength, **clustered(right, pairs.cluster).to_json()})
    return {"curves": curves}


def _perturbed(pairs: Pairs, kind: str, strength: int, rng: np.random.Generator) -> tuple[str, ...]:
    """The texts of pairs, perturbed; switched into a keyword that another locale has for the same emoji."""
    if kind != SWITCHING:
        rows = zip(pairs.texts, pairs.languages, strict=True)
        return tuple(TEXT_PERTURBATIONS[kind](text, language, strength, rng) for text, language in rows)
    held_out = _held_out_words(pairs)

    def other(row: int) -> str | None:
        words = [word for tag, word in held_out[int(pairs.cluster[row])] if tag != pairs.languages[row]]
        return words[int(rng.integers(len(words)))] if words else None

    return tuple(
        switch_code(text, lambda _, row=row: other(row), strength, rng)  # type: ignore[misc]
        for row, text in enumerate(pairs.texts)
    )


def _held_out_words(pairs: Pairs) -> dict[int, list[tuple[str, str]]]:
    """(locale, keyword) of the cells of each emoji that are held out: words that were trained on would say more."""
    pack = load_pack()
    return {
        emoji: [
            (tag, word)
            for tag in pack.locales
            if cell_split(pack.emoji[emoji].hexcode, tag) == "test"
            for word in pack.keywords(tag)[emoji]
        ]
        for emoji in np.unique(pairs.cluster).tolist()
    }


def some(pairs: Pairs, count: int) -> Pairs:
    """The first pairs, which are in random order, and only the pictures that they show."""
    rows = np.arange(min(count, len(pairs)))
    shown, picture = np.unique(pairs.picture[rows], return_inverse=True)
    return Pairs(
        pairs.name,
        pairs.pictures[shown],
        picture,
        pairs.texts[: len(rows)],
        pairs.languages[: len(rows)],
        pairs.label[rows],
        pairs.cluster[rows],
    )
