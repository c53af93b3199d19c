"""Retrieval: how well texts find pictures and pictures find texts, in every language."""

from pathlib import Path

import numpy as np

from dmedge.evidence.accuracy import measure, work_in
from dmedge.patience import patient_progress
from dmedge.runtime.encoder import Encoder
from dmedge.study.cells import Cell, Done, Result
from dmedge.study.context import Study
from dmedge.study.scores import clustered

NEAR = 0.8  # of the recall of English


def run_retrieval(study: Study) -> Done | None:
    """Recall of the checkpoint, both ways, in every language; None where texts do not say what a picture shows."""
    if not study.source.describes:
        return None
    config = study.config
    settings = {"texts_per_language": config.texts_per_language, "seed": config.seed, **study.source.gallery_settings}

    def run(folder: Path) -> Result:
        data = study.source.gallery()
        encoder = Encoder(study.artifact, show_progress=False)
        with encoder, patient_progress("retrieval", work_in(data)) as advance:
            report = measure(encoder, data, advance=advance).report
        found = report.to_json()
        hits = report.queries["text_to_image"].rank <= 10
        texts = report.queries["text_to_image"].text
        of_language = report.language[texts]
        language_mean = np.array([hits[of_language == i].mean() for i in range(len(report.languages))])
        weight = 1 / np.bincount(of_language)[of_language] / len(report.languages) * len(hits)
        interval = clustered(hits * weight, data.text_image[texts])
        found |= {"recall_at_10_interval": interval.to_json() | {"value": float(language_mean.mean())}}
        has_others = "en" in found["languages"] and len(found["languages"]) > 1
        return found | ({"near_english": near_english(found["languages"])} if has_others else {})

    return study.run(Cell("retrieval", settings, run))


def near_english(languages: dict[str, dict[str, dict[str, float]]]) -> dict[str, object]:
    """How many languages reach 80 % of the recall@10 of English, and which do not."""
    recall = {tag: row["text_to_image"]["recall_at_10"] for tag, row in languages.items()}
    below = sorted((tag for tag in recall if recall[tag] < NEAR * recall["en"]), key=recall.__getitem__)
    return {"english": recall["en"], "languages": len(recall), "reached": len(recall) - len(below), "below": below}
