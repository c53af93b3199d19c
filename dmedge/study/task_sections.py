"""The sections on the task itself: classification, retrieval, modalities, fusions."""

from collections.abc import Mapping
from typing import Any

from dmedge.data.languages import count_languages
from dmedge.study.cells import Done, folders
from dmedge.study.charts import line_chart
from dmedge.study.context import Study
from dmedge.study.cost import epochs_to_converge
from dmedge.study.findings import Findings
from dmedge.study.heads import FUSIONS, PLAIN
from dmedge.study.page import Picture, Section, Table
from dmedge.study.published import with_published
from dmedge.study.scores import over_seeds
from dmedge.study.variants import accuracy, drop
from dmedge.study.words import points, with_interval

FIGURES = {  # of a head -> how the page calls them; a task has some of them
    "accuracy": "accuracy",
    "mean_average_precision": "mean average precision",
    "macro_f1": "macro f1",
    "micro_f1": "micro f1",
    "macro_precision": "macro precision",
    "macro_recall": "macro recall",
}


def classification(study: Study, found: Findings) -> Section:
    """Accuracy, F1, precision and recall of the shipped design."""
    runs, words = found.variants[study.design], study.source.words
    rows = []
    for key, name in FIGURES.items():
        if key in runs[0].result:
            spread = over_seeds([run.result[key] for run in runs])
            rows.append([name, f"{spread['mean']:.3f}", f"± {spread['half_width']:.3f}"])
    figure = accuracy(study, runs)
    common = study.test.commonest(len(study.source.classes))
    table = Table(words.design, ("figure", "mean of the seeds", "95 % over seeds"), rows)
    return Section(
        "Classification from both modalities",
        f"{words.task} Accuracy {with_interval(figure.to_json())} over n = {figure.n:,} pairs of {figure.clusters:,} "
        f"{words.samples}; always naming the most common class gives {common:.3f}. {words.standing}",
        tables=(with_published(table, "classification"),),
        cells=folders(runs),
    )


def retrieval(study: Study, found: Findings) -> Section:
    """Recall both ways, macro and by language."""
    words = study.source.words
    if found.retrieval is None:
        return Section("Cross-modal retrieval", words.no_gallery)
    result = found.retrieval.result
    keys = ("recall_at_1", "recall_at_5", "recall_at_10")
    directions = {"text_to_image": "text to image", "image_to_text": "image to text"}

    def row(name: str, table: Mapping[str, Any]) -> list[str]:
        return [name, f"{table['n']:,}", f"{table['gallery']:,.0f}", *(f"{table[key]:.3f}" for key in keys)]

    rows = [row(f"all, {way}", result["macro"][key]) for key, way in directions.items()]
    for tag, table in result["tags"].items():
        rows += [row(f"{tag.replace('_', ' ')}, {way}", table[key]) for key, way in directions.items()]
    languages = sorted(result["languages"].items(), key=lambda item: item[1]["text_to_image"]["recall_at_10"])
    by_language = [
        [tag, *(f"{table[key][k]:.3f}" for key in directions for k in keys), f"{table['text_to_image']['n']:,}"]
        for tag, table in languages
    ]
    columns = ("", "n", "among", "recall@1", "recall@5", "recall@10")
    language_columns = (
        "locale",
        *(f"{short} @{k}" for short in ("text to image", "image to text") for k in (1, 5, 10)),
        "n",
    )
    chance = f"Chance at 10: {result['macro']['text_to_image']['chance_at_10']:.4f}."
    overall = Table("All locales" if len(languages) > 1 else "Both ways", columns, rows, chance)
    tables = [with_published(overall, "retrieval")]
    if len(languages) > 1:
        tables.append(Table("By locale, the weakest first", language_columns, by_language))
    return Section(
        "Cross-modal retrieval",
        f"{words.gallery.replace('LANGUAGES', count_languages(result['languages']))} Recall@10 of text to image "
        f"{with_interval(result['recall_at_10_interval'])}.{words.tags}",
        tables=tuple(tables),
        cells=folders([found.retrieval]),
    )


def modalities(study: Study, found: Findings) -> Section:
    """What each modality adds."""
    names = {
        study.design: "image and text, cross-attention",
        "no-attention": "image and text, no attention",
        "vision-only": "image alone",
        "text-only": "text alone",
    }
    return Section(
        "Without one modality",
        "The same head with a modality, or the attention, taken out, and trained anew. "
        "Differences are paired: the same pairs, before and after.",
        tables=(with_published(_variant_table(study, found, names, study.design), "modalities"),),
        cells=folders([run for name in names for run in found.variants[name]]),
    )


def fusions(study: Study, found: Findings) -> Section:
    """Fusions with equal numbers of parameters."""
    names = {variant.name: variant.name for variant in FUSIONS} | {PLAIN.name: "plain cross-attention"}
    curves = {
        name: [(step, value) for step, value in found.variants[name][0].result["curve"]]
        for name in dict.fromkeys((study.design, *names))
    }
    return Section(
        "Ways to fuse",
        f"{study.source.words.heads} as wide as gives each the same number of parameters. "
        "Plain cross-attention keeps the text tokens after they looked at the picture and nothing else.",
        tables=(with_published(_variant_table(study, found, names, FUSIONS[0].name), "fusions"),),
        pictures=(Picture(line_chart(curves, "step", "validation accuracy"), "Accuracy while training, first seed."),),
        cells=folders([run for name in names for run in found.variants[name]]),
    )


def _variant_table(study: Study, found: Findings, names: Mapping[str, str], reference: str) -> Table:
    rows = []
    keys = ["macro_f1"]
    if "mean_average_precision" in found.variants[reference][0].result:
        keys.append("mean_average_precision")
    for name, words in names.items():
        runs = found.variants[name]
        figure, spread = accuracy(study, runs), over_seeds([run.result["accuracy"] for run in runs])
        change = points(drop(study, runs, found.variants[reference]).to_json()) if name != reference else "reference"
        seconds = sum(run.result["train_seconds"] for run in runs) / len(runs)
        epochs = sum(_epochs(study, run) for run in runs) / len(runs)
        rows.append(
            [
                words,
                with_interval(figure.to_json()),
                f"± {spread['half_width']:.3f}",
                change,
                *(f"{sum(run.result[key] for run in runs) / len(runs):.3f}" for key in keys),
                f"{runs[0].result['parameters']:,}",
                f"{seconds:.0f} s",
                f"{epochs:.1f}",
            ]
        )
    columns = (
        *("head", "accuracy", "over seeds", "difference"),
        *({"macro_f1": "macro F1", "mean_average_precision": "mAP"}[key] for key in keys),
        *("parameters", "training", "epochs to converge"),
    )
    note = (
        f"n = {len(study.test):,} pairs, {study.config.seeds} seeds. Training time on this machine, of the head alone."
    )
    return Table("Accuracy", columns, rows, note)


def _epochs(study: Study, run: Done) -> float:
    return epochs_to_converge(run.result["curve"], study.config.head_batch, len(study.train))
