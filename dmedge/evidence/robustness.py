"""Does the compressed model suffer more than its baseline when pictures and texts are not clean?

Some texts are drawn, every language alike. Each text is changed, or the picture that it looks for, at five
strengths, and both encoders search with the same changed item; all other pictures of the gallery stay clean.
What is compared is recall at 10, text to image, on the same queries.
Source: Hendrycks and Dietterich 2019, arXiv:1903.12261 (five severities, and errors relative to a baseline's).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from dmedge.data.evalset import EvalSet
from dmedge.data.languages import base_language, count_languages
from dmedge.data.transforms import Preprocess
from dmedge.evidence.accuracy import TextImageEncoder
from dmedge.evidence.config import VerifyConfig
from dmedge.evidence.paired import Interval, mean_draws, percentile_intervals, simultaneous_intervals
from dmedge.evidence.perturb_images import IMAGE_PERTURBATIONS, Pixels
from dmedge.evidence.perturb_texts import TEXT_PERTURBATIONS, switch_code
from dmedge.evidence.retrieval import Floats, Ints, ranks_of_replaced, text_to_image_ranks
from dmedge.evidence.strengths import STRENGTHS
from dmedge.evidence.verdict import BudgetLine, judge_drop

K = 10
CODE_SWITCHING = "code_switching"
NAMES = (*IMAGE_PERTURBATIONS, *TEXT_PERTURBATIONS, CODE_SWITCHING)
Bools = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Sample:
    """Queries that are perturbed."""

    data: EvalSet
    rows: Ints  # [S] of the texts
    seed: int

    @property
    def images(self) -> Ints:
        """[S] index of the picture of each text."""
        return self.data.text_image[self.rows]

    def rng(self, name: str, item: int) -> np.random.Generator:
        """The chance of one perturbation of one item: the same for every strength and both encoders."""
        return np.random.default_rng([self.seed, NAMES.index(name), item])


class Searched(NamedTuple):
    """How one encoder did; strength 0 is the clean item."""

    hits: Bools  # [P, 1 + strengths, S] of each perturbation
    changed: Bools  # [P, 1 + strengths, S] whether the item is another than the clean one


@dataclass(frozen=True, eq=False)
class Robustness:
    """Both encoders on the same perturbed queries."""

    sample: Sample
    artifact: Searched
    baseline: Searched
    resamples: int
    confidence: float

    @property
    def drop(self) -> Interval:
        """Recall that the artifact loses beyond what its baseline does, over all perturbations and strengths."""
        lost = self._lost().mean(axis=0, keepdims=True)  # [1, S]
        return percentile_intervals(lost.mean(axis=1), self._draws(lost), self.confidence)[0]

    @property
    def clean_hits(self) -> int:
        """Clean queries that the baseline answers, i.e. those that could be lost."""
        return int(self.baseline.hits[0, 0].sum())

    def to_json(self) -> dict[str, Any]:
        """Curves by name. `difference` is artifact less baseline, `drop` the recall lost beyond the baseline's loss.

        Intervals of differences hold by themselves, those of drops for all perturbations together.
        """
        lost = self._lost()
        drops = simultaneous_intervals(lost.mean(axis=1), self._draws(lost), self.confidence)
        data = self.sample.data
        languages = {data.languages[row] for row in self.sample.rows}
        return {
            "n_texts": len(self.sample.rows),
            "n_images": len(np.unique(self.sample.images)),
            "languages": count_languages(languages),
            "gallery": len(data.images),
            "clean_hits": self.clean_hits,
            "k": K,
            "strengths": [0, *STRENGTHS],
            "drop": self.drop.to_json(),
            "perturbations": {
                name: self._curve_json(index) | {"drop": drops[index].to_json()} for index, name in enumerate(NAMES)
            },
        }

    def _curve_json(self, index: int) -> dict[str, Any]:
        mine, theirs = self.artifact.hits[index], self.baseline.hits[index]  # [1 + strengths, S]
        apart = mine.astype(np.float64) - theirs
        intervals = percentile_intervals(apart.mean(axis=1), self._draws(apart), self.confidence)
        return {
            "of": "image" if NAMES[index] in IMAGE_PERTURBATIONS else "text",
            "changed": [round(float(share), 6) for share in self.artifact.changed[index].mean(axis=1)],
            "artifact": [round(float(share), 6) for share in mine.mean(axis=1)],
            "baseline": [round(float(share), 6) for share in theirs.mean(axis=1)],
            "difference": [interval.to_json() for interval in intervals],
        }

    def _lost(self) -> NDArray[np.float64]:
        """[P, S] hits lost, mean over strengths, that the baseline did not lose."""
        mine, theirs = (side.hits.astype(np.float64) for side in (self.artifact, self.baseline))
        lost: NDArray[np.float64] = ((mine[:, :1] - mine[:, 1:]) - (theirs[:, :1] - theirs[:, 1:])).mean(axis=1)
        return lost

    def _draws(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """[R, M] means of [M, S] values."""
        clusters = np.array(self.sample.data.clusters, dtype=np.str_)[self.sample.images]
        cluster = np.unique(clusters, return_inverse=True)[1]
        return mean_draws(cluster, values.T, self.resamples, self.sample.seed)


def judge_robustness(robustness: Robustness | None, limit: float) -> BudgetLine:
    """Not enough data where nothing was perturbed, or where too little was found that could have been lost."""
    drop, hits = (robustness.drop, robustness.clean_hits) if robustness else (None, 0)
    return judge_drop("robustness_drop", limit, drop, hits)


def draw_queries(data: EvalSet, config: VerifyConfig) -> Sample:
    """At most `robustness_texts` texts at random, as many of one language as of another where there are enough."""
    order = np.random.default_rng(config.seed).permutation(len(data.texts))
    languages = np.array(data.languages, dtype=np.str_)[order]
    turn = np.empty(len(order), np.int64)  # a text is its language's first, second, ...
    for language in np.unique(languages):
        mine = languages == language
        turn[mine] = np.arange(mine.sum())
    rows = order[np.argsort(turn, kind="stable")[: config.robustness_texts]]
    return Sample(data, np.sort(rows), config.seed)


def search_perturbed(
    encoder: TextImageEncoder,
    gallery: Floats,
    sample: Sample,
    preprocess: Preprocess,
    advance: Callable[[int], object] = lambda items: None,
) -> Searched:
    """Search with every query under every perturbation.

    Args:
        encoder: of one side.
        gallery: [N, D] its embeddings of the clean pictures.
        preprocess: of pictures that are no arrays yet, so that strengths are those of the model's own pixels.
        advance: told how many items were done.
    """
    texts, pixels = [sample.data.texts[row] for row in sample.rows], _pixels(sample, preprocess)
    embedded, match = encoder.texts(texts), sample.images
    clean = text_to_image_ranks(embedded, gallery, match) <= K
    hits = np.empty((len(NAMES), 1 + len(STRENGTHS), len(match)), np.bool_)
    changed = np.zeros(hits.shape, np.bool_)
    hits[:, 0] = clean
    for index, name in enumerate(NAMES):
        if name in IMAGE_PERTURBATIONS:
            steps = _image_steps(encoder, embedded, gallery, sample, pixels, name)
        else:
            steps = _text_steps(encoder, gallery, sample, texts, name)
        for strength, (hit, is_changed) in zip(STRENGTHS, steps, strict=True):
            hits[index, strength], changed[index, strength] = hit, is_changed
            advance(len(match))
    return Searched(hits, changed)


def _image_steps(
    encoder: TextImageEncoder,
    texts: Floats,
    gallery: Floats,
    sample: Sample,
    pixels: Mapping[int, Pixels],
    name: str,
) -> Iterator[tuple[Bools, Bools]]:
    """Hits, and whether anything changed, at each strength; a picture that several texts look for is changed once."""
    place = {image: i for i, image in enumerate(pixels)}
    of_text = np.array([place[int(image)] for image in sample.images])
    for strength in STRENGTHS:
        altered = [
            IMAGE_PERTURBATIONS[name](clean, strength, sample.rng(name, image)) for image, clean in pixels.items()
        ]
        ranks = ranks_of_replaced(texts, encoder.images(altered)[of_text], gallery, sample.images)
        is_changed = [not np.array_equal(a, b) for a, b in zip(altered, pixels.values(), strict=True)]
        yield ranks <= K, np.array(is_changed)[of_text]


def _text_steps(
    encoder: TextImageEncoder, gallery: Floats, sample: Sample, texts: Sequence[str], name: str
) -> Iterator[tuple[Bools, Bools]]:
    """As `_image_steps`; equal texts are embedded once, so what nothing was done to costs little."""
    altered = [text for strength in STRENGTHS for text in _altered_texts(sample, texts, name, strength)]
    embedded = encoder.texts(altered)
    for start in range(0, len(altered), len(texts)):
        rows = slice(start, start + len(texts))
        ranks = text_to_image_ranks(embedded[rows], gallery, sample.images)
        yield ranks <= K, np.array([a != b for a, b in zip(altered[rows], texts, strict=True)])


def _altered_texts(sample: Sample, texts: Sequence[str], name: str, strength: int) -> list[str]:
    items = zip(sample.rows.tolist(), texts, strict=True)
    if name == CODE_SWITCHING:
        others = _translations(sample)
        return [switch_code(text, _always(others.get(row)), strength, sample.rng(name, row)) for row, text in items]
    languages, perturb = sample.data.languages, TEXT_PERTURBATIONS[name]
    return [perturb(text, languages[row], strength, sample.rng(name, row)) for row, text in items]


def _always(other: str | None) -> Callable[[str], str | None]:
    return lambda text: other


def _translations(sample: Sample) -> dict[int, str]:
    """For each text one of the same picture in another language, where the data has one."""
    data, wanted = sample.data, set(sample.images.tolist())
    of_image: dict[int, list[int]] = {}
    for row in np.flatnonzero(np.isin(data.text_image, list(wanted))).tolist():
        of_image.setdefault(int(data.text_image[row]), []).append(row)
    found = {}
    for row, image in zip(sample.rows.tolist(), sample.images.tolist(), strict=True):
        mine = base_language(data.languages[row])
        others = [other for other in of_image[image] if base_language(data.languages[other]) != mine]
        if others:
            found[row] = data.texts[others[int(sample.rng(CODE_SWITCHING, row).integers(len(others)))]]
    return found


def _pixels(sample: Sample, preprocess: Preprocess) -> dict[int, Pixels]:
    """The different pictures of the sample as uint8 [H, W, 3]; photographs in the size that the model takes."""

    def ready(image: Any) -> Pixels:
        if not isinstance(image, Image.Image):
            return np.asarray(image)
        if preprocess.keeps_square:
            return preprocess(image)
        return np.array(ImageOps.exif_transpose(image).convert("RGB"))

    return {int(index): ready(sample.data.images[index]) for index in np.unique(sample.images)}
