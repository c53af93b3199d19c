"""An index as it is searched: read once, and only with the bundle that it was made with."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dmedge.artifact import RUNS, Artifact, find_artifacts, load_artifact
from dmedge.errors import ArtifactError
from dmedge.flow.approximate import Graph, read_graph
from dmedge.flow.gallery import Gallery, Item
from dmedge.flow.index import CODES, DIMS, ITEMS, SCALES
from dmedge.flow.index_recall import best_places
from dmedge.flow.index_vectors import Vectors
from dmedge.flow.thumbnails import Thumbnails
from dmedge.manifest import read_manifest


@dataclass(frozen=True, eq=False)
class Index:
    """The rows, and the pictures that they stand for."""

    artifact: Artifact
    gallery: Gallery
    vectors: Vectors
    graph: Graph | None  # None: every row is looked at

    def best(self, embedding: NDArray[np.float32], k: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Places and scores of the `k` pictures that fit an [embed_dim] embedding best."""
        if self.graph is None:
            scores = self.vectors.scores(embedding[None])
            best = best_places(scores, k)[0]
            return best, scores[0, best]
        best = self.graph.best(self.vectors, embedding[None], k)[0]
        return best, self.vectors.rows(best) @ self.vectors.query(embedding[None])[0]


def open_index(artifact: Artifact) -> Index:
    """Read an index.

    Raises:
        DmedgeError: it is an approximate one, and usearch is not installed.
    """
    summary: Any = artifact.manifest.summary

    def array(name: str) -> Any:
        return np.load(artifact.file(name), allow_pickle=False) if name in artifact.manifest.files else None

    table = json.loads(artifact.file(ITEMS).read_text(encoding="utf-8"))
    items = tuple(Item(row["name"], char=row.get("char")) for row in table)
    images = Thumbnails(artifact.root, len(items), summary["thumbnails"]["size"])
    return Index(
        artifact=artifact,
        gallery=Gallery(name=artifact.name, keys=(), images=images, items=items),
        vectors=Vectors(array(CODES), array(SCALES), array(DIMS), summary["selection"]),
        graph=read_graph(artifact.root) if summary["approximate"] else None,
    )


def find_encoder(index: Artifact, given: Artifact | None = None, places: Sequence[Path] = (RUNS,)) -> Artifact:
    """The bundle that an index was made with: `given`, or one beside the index or below `places`.

    Raises:
        ArtifactError: `given` is another one, or none is found.
    """
    want = index.manifest.parents["bundle"]
    if given is not None:
        if given.digest != want:
            raise ArtifactError(
                f"{given.root}: its digest is {given.digest[:12]}; {index.root} was made by {want[:12]}, and scores of "
                "another encoder mean nothing; search with that bundle, or run dmedge index with this one"
            )
        return given
    for folder in [folder for place in (index.root.parent, *places) for folder in find_artifacts(place)]:
        try:
            is_it = read_manifest(folder).digest == want
        except ArtifactError:
            continue  # damaged, so no digest vouches for it
        if is_it:
            return load_artifact(folder, kind="bundle")
    raise ArtifactError(
        f"{index.root}: the bundle {want[:12]} that it was made by lies neither beside it nor below "
        f"{', '.join(map(str, places))}; expected it, since another encoder finds nothing; name it with --encoder"
    )
