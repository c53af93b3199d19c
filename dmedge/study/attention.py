"""The attention of the checkpoint itself: where it looks, whether that matters, how it weighs its sides."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from dmedge.evidence.attention_study import study_attention
from dmedge.flow.attention_gallery import explain_triples
from dmedge.flow.explain_page import gallery_body
from dmedge.study.cells import Cell, Done, Result
from dmedge.study.charts import line_chart
from dmedge.study.context import Study
from dmedge.study.page import Picture, Table
from dmedge.study.words import with_interval

GALLERY = "gallery.html"


def run_attention(study: Study) -> Done | None:
    """Analyse the fusion that the checkpoint came with; None where it attends to nothing."""
    fusion = study.checkpoint.model.fusion
    if fusion is None or not fusion.attends:
        return None
    settings = {"pairs": study.config.attention_pairs, "seed": study.config.seed, **study.source.gallery_settings}
    return study.run(Cell("attention", settings, partial(_measure, study)))


def _measure(study: Study, folder: Path) -> Result:
    pairs, target = study.source.attention_pairs(study.checkpoint)
    found = study_attention(study.checkpoint, pairs, target, seed=study.config.seed)
    shown = explain_triples(study.checkpoint, study.source.triples())
    (folder / GALLERY).write_text(gallery_body(shown), encoding="utf-8")
    return found.to_json()


def attention_tables(result: Mapping[str, Any]) -> tuple[Table, ...]:
    """Orders of regions, and the weighting of both sides."""
    regions = result["regions"]
    orders = [
        [
            name,
            with_interval(row["deletion_area"]),
            with_interval(row["insertion_area"]),
            row["verdict"] if name != "random" else "reference",
        ]
        for name, row in regions["orders"].items()
    ]
    note = (
        f"Areas under the curves of the {regions['target']} probability, n = {result['n']:,} pairs; a good order has a "
        "small deletion area and a large insertion area (Petsiuk et al. 2018, arXiv:1806.07421). Mean entropy of the "
        f"attention over log of the regions: {with_interval(result['entropy'])}; 1 looks everywhere alike."
    )
    columns = ("order", "deletion area", "insertion area", "against random")
    tables = [Table("Do the regions matter?", columns, orders, note)]
    for weighting in result["weighting"]:
        names = list(weighting["levels"][0]["figures"])
        rows = [
            [level["level"], f"{level['n']:,}", *(f"{level['figures'][name]['value']:.3f}" for name in names)]
            for level in weighting["levels"]
        ]
        rows.append(["trend", "", *(f"{weighting['directions'][name]}" for name in names)])
        columns = (weighting["axis"], "n", *(name.replace("_", " ") for name in names))
        tables.append(Table(f"Weighting over {weighting['axis']}", columns, rows, weighting["trend"]))
    return tuple(tables)


def attention_pictures(done: Done) -> tuple[Picture, ...]:
    """Deletion and insertion curves, and maps of some words."""
    regions = done.result["regions"]
    pictures = []
    for kind in ("deletion", "insertion"):
        lines = {name: list(zip(regions["shares"], row, strict=True)) for name, row in regions[f"mean_{kind}"].items()}
        ticks = [f"{share:.0%}" for share in regions["shares"]]
        chart = line_chart(lines, f"regions in {kind} order", f"{regions['target']} probability", x_ticks=ticks)
        pictures.append(Picture(chart, f"{kind.capitalize()} curve."))
    gallery = done.artifact.file(GALLERY).read_text(encoding="utf-8")
    pictures.append(Picture(gallery, "Where the tokens of some texts look."))
    return tuple(pictures)
