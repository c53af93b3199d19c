"""The `index` stage: pictures embedded by a bundle, small enough to travel, and bound to that bundle."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from dmedge.artifact import Artifact, Draft, new_artifact
from dmedge.data.pictures import BadRecords
from dmedge.errors import DataError
from dmedge.flow.approximate import FROM, Graph, write_graph
from dmedge.flow.gallery import Gallery, SomePictures, embed_gallery
from dmedge.flow.index_recall import Ints, Kept, best_places, measure_kept, probe_pictures, probe_texts
from dmedge.flow.index_vectors import Floats, Vectors, make_vectors
from dmedge.flow.thumbnails import COLUMNS, PER_SHEET, write_thumbnails
from dmedge.runtime.encoder import Encoder

ITEMS, CODES, SCALES, DIMS = "items.json", "vectors.npy", "scales.npy", "dims.npy"
MAX_BAD_SHARE = 0.05  # of the files of a folder


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexConfig:
    """How small, and how exact."""

    dtype: Literal["int8", "float32"] = "int8"
    dim: int | None = None  # numbers kept of an embedding; None: all
    thumbnail: int = 96  # pixels of a side; emoji keep their own 48
    approximate: bool | None = None  # None: above 100,000 pictures
    min_recall: float = 0.9  # recall@10 against the exact search, by text

    def __post_init__(self) -> None:
        if self.dim is not None and self.dim < 1:
            raise ValueError(f"dim is {self.dim}; expected 1 or more")
        if not 8 <= self.thumbnail <= 256:
            raise ValueError(f"thumbnail is {self.thumbnail}; expected 8 to 256 pixels")
        if not 0 <= self.min_recall <= 1:
            raise ValueError(f"min_recall is {self.min_recall}; expected 0 to 1")


def build_index(bundle: Artifact, gallery: Gallery, config: IndexConfig, out: Path, *, workers: int = 1) -> Artifact:
    """Embed the pictures of `gallery` and write them as an index, after comparing it with the exact search.

    Pictures that cannot be read are left out and counted, up to a twentieth of all.

    Args:
        bundle: that embeds, here and whenever the index is searched.
        gallery: pictures, in the order of the index.
        config: how small, and how exact.
        out: directory to create.
        workers: processes that share the work.

    Raises:
        ArtifactError: `out` exists.
        DataError: too many pictures cannot be read, or the index finds too little of what the exact search finds.
        DmedgeError: the bundle does not run, or a package is missing.
    """
    with new_artifact(out) as draft:
        bad = BadRecords(MAX_BAD_SHARE, gallery.name, advice="replace them, or move them out of the folder")
        bad.saw(len(gallery.items))
        with Encoder(bundle, workers=workers, show_progress=False) as encoder:
            rows = embed_gallery(
                encoder, bundle, gallery, on_bad=lambda place, error: bad.add(gallery.items[place].name, _reason(error))
            )
            bad.finish()
            places = np.flatnonzero(~np.isnan(rows[:, 0]))
            exact = rows[places]
            queries = encoder.texts(probe_texts(bundle.manifest.languages))
        vectors = make_vectors(exact, dim=config.dim, is_int8=config.dtype == "int8")
        is_approximate = len(exact) > FROM if config.approximate is None else config.approximate
        graph = write_graph(draft.path, vectors) if is_approximate else None
        kept = _measure(exact, queries, _finder(vectors, graph))
        _check_recall(kept["text"], vectors, config)
        return _finish(
            draft,
            bundle,
            gallery,
            config,
            places.tolist(),
            vectors,
            kept,
            embed_dim=exact.shape[1],
            is_approximate=is_approximate,
        )


def _finder(vectors: Vectors, graph: Graph | None) -> Callable[[Floats, int], Ints]:
    if graph is None:
        return lambda embeddings, k: best_places(vectors.scores(embeddings), k)
    return lambda embeddings, k: graph.best(vectors, embeddings, k)


def _measure(exact: Floats, queries: Floats, find: Callable[[Floats, int], Ints]) -> dict[str, Kept]:
    """By text, and by pictures of the gallery itself, which are not to find themselves."""
    own = probe_pictures(len(exact))
    return {"text": measure_kept(exact, queries, find), "image": measure_kept(exact, exact[own], find, own)}


def _check_recall(kept: Kept, vectors: Vectors, config: IndexConfig) -> None:
    if kept.recall_at_10 < config.min_recall:
        width = vectors.codes.shape[1]
        better = "--dtype float32" if vectors.dims is None else "a larger --dim"
        why = "; shares of concepts have no order, and few are zero" if vectors.selection == "strongest" else ""
        raise DataError(
            f"with {width} numbers of each embedding in {config.dtype} the index finds {kept.recall_at_10:.3f} of the "
            f"ten best pictures of the exact search{why}; expected at least {config.min_recall:g}; choose {better}, "
            "or accept it with --min-recall"
        )


def _finish(
    draft: Draft,
    bundle: Artifact,
    gallery: Gallery,
    config: IndexConfig,
    places: Sequence[int],
    vectors: Vectors,
    kept: dict[str, Kept],
    *,
    embed_dim: int,
    is_approximate: bool,
) -> Artifact:
    items = [gallery.items[place] for place in places]
    is_drawn = all(item.char is not None for item in items)
    images = SomePictures(gallery.images, places)
    tile = len(images[0]) if is_drawn else config.thumbnail
    table = [{"name": item.name} | ({"char": item.char} if item.char else {}) for item in items]
    (draft.path / ITEMS).write_text(json.dumps(table, ensure_ascii=False, indent=0) + "\n", encoding="utf-8")
    for name, array in ((CODES, vectors.codes), (SCALES, vectors.scales), (DIMS, vectors.dims)):
        if array is not None:
            np.save(draft.path / name, np.ascontiguousarray(array), allow_pickle=False)  # row by row, as pages read it
    write_thumbnails(draft.path, images, tile, is_drawn=is_drawn)
    return draft.finish(
        kind="index",
        stage="index",
        config={**asdict(config), "gallery": gallery.name if is_drawn else "folder"},
        parents={"bundle": bundle.digest},
        languages=bundle.manifest.languages,
        summary={
            "pictures": len(items),
            "left_out": len(gallery.items) - len(items),
            "dtype": config.dtype,
            "dims": vectors.codes.shape[1],
            "embed_dim": embed_dim,
            "selection": vectors.selection,
            "approximate": is_approximate,
            "kept_of_exact": {name: found.to_json() for name, found in kept.items()},
            "thumbnails": {"size": tile, "columns": COLUMNS, "per_sheet": PER_SHEET},
        },
    )


def _reason(error: DataError) -> str:
    """Broken files count together, whatever their names are."""
    return f"unreadable image ({error})"
