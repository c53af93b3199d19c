"""Training data as flat arrays, and batches drawn from it by step number.

A batch depends on nothing but (seed, step), so a resumed run sees the batches that the
uninterrupted run would have seen.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dmedge.data.content import Ids, text_id
from dmedge.data.emoji import TRAIN_STYLES, EmojiPack
from dmedge.data.languages import choose_languages
from dmedge.data.splits import is_unseen_emoji, training_texts
from dmedge.data.transforms import Preprocess
from dmedge.training.sampling import language_shares

Index = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class TrainingData:
    """Images and texts of C concepts in L languages.

    `first_image` [C + 1] and `first_text` [C * L + 1] are offsets: the images of concept c are
    rows first_image[c] to first_image[c + 1]; the texts of (c, l) likewise, a name first.
    """

    images: NDArray[np.uint8]  # [N, S, S, 3]
    content: Ids  # [N], whatever the size of the pictures
    first_image: Index
    texts: tuple[str, ...]
    first_text: Index
    text_concept: Index  # [T]
    languages: tuple[str, ...]
    classes: Index  # [C]
    class_siblings: Index  # [C], a finer group: confusable concepts share it
    labels: tuple[str, ...]

    @property
    def concepts(self) -> int:
        """Number of concepts."""
        return len(self.classes)

    def in_languages(self, asked: Sequence[str]) -> "TrainingData":
        """The same pictures, with texts in these languages only; all for none.

        Raises:
            ConfigError: there is no text in one of them.
        """
        if not asked:
            return self
        chosen = set(choose_languages(asked, self.languages))
        is_chosen = np.array([tag in chosen for tag in self.languages])
        counts = np.diff(self.first_text).reshape(self.concepts, -1)  # [C, L]
        kept = np.flatnonzero(np.repeat(np.tile(is_chosen, self.concepts), counts.ravel()))
        return replace(
            self,
            texts=tuple(self.texts[row] for row in kept),
            first_text=np.concatenate([[0], np.cumsum(counts[:, is_chosen])]).astype(np.int64),
            text_concept=self.text_concept[kept],
            languages=tuple(tag for tag in self.languages if tag in chosen),
        )


def emoji_training_data(pack: EmojiPack) -> TrainingData:
    """Training styles, training cells and seen emoji of the embedded pack."""
    concept_of = {
        i: c for c, i in enumerate(i for i, emoji in enumerate(pack.emoji) if not is_unseen_emoji(emoji.hexcode))
    }
    seen = np.fromiter(concept_of, np.int64)
    language_of = {locale: number for number, locale in enumerate(pack.locales)}
    rows = sorted(
        (concept_of[text.emoji], language_of[text.locale], not text.is_name, text.text) for text in training_texts(pack)
    )
    cells = np.array([concept * len(language_of) + language for concept, language, _, _ in rows], np.int64)
    pictures, owners, content = [], [], []
    for style in TRAIN_STYLES:
        images, present = pack.images(style)
        drawn = seen[present[seen]]
        pictures.append(images[drawn])
        owners.append(np.array([concept_of[int(i)] for i in drawn], np.int64))
        content += [text_id(f"{style}/{pack.emoji[i].hexcode}") for i in drawn]
    owner = np.concatenate(owners)
    order = np.argsort(owner, kind="stable")
    return TrainingData(
        images=np.concatenate(pictures)[order],
        content=np.array(content, np.uint64)[order],
        first_image=_offsets(owner, len(seen)),
        texts=tuple(row[3] for row in rows),
        first_text=_offsets(cells, len(seen) * len(language_of)),
        text_concept=np.array([row[0] for row in rows], np.int64),
        languages=pack.locales,
        classes=np.array([pack.emoji[i].group for i in seen], np.int64),
        class_siblings=np.array([pack.emoji[i].subgroup for i in seen], np.int64),
        labels=pack.groups,
    )


def _offsets(owner: Index, count: int) -> Index:
    return np.concatenate([[0], np.cumsum(np.bincount(owner, minlength=count))]).astype(np.int64)


def load_training_data(image_size: int) -> TrainingData:
    """The embedded data, its pictures resized to a square of `image_size` pixels."""
    from dmedge.data.emoji import load_pack

    data = emoji_training_data(load_pack())
    if image_size == data.images.shape[1]:
        return data
    resize = Preprocess(size=image_size)
    return replace(data, images=np.stack([resize(Image.fromarray(picture)) for picture in data.images]))


@dataclass(frozen=True, eq=False)
class Batch:
    """One step's draw: row i of `images` and the texts with `text_row` i belong to `concepts[i]`."""

    concepts: Index  # [B]
    images: Index  # [B], rows of TrainingData.images
    texts: Index  # [B * K], rows of TrainingData.texts
    text_row: Index  # [B * K]

    def share(self, rank: int, world: int) -> "Batch":
        """The rows `rank::world`, and their texts."""
        mine = self.text_row % world == rank
        return Batch(
            self.concepts[rank::world].copy(),
            self.images[rank::world].copy(),
            self.texts[mine],
            self.text_row[mine] // world,
        )


def draw_batch(
    data: TrainingData,
    rng: np.random.Generator,
    size: int,
    texts_per_image: int,
    name_share: float,
    language_balance: float = 1.0,
) -> Batch:
    """Draw distinct concepts uniformly, one image and K texts for each, languages by their `language_shares`.

    Where the drawn language has no text for the concept, any of the concept's texts stands in.
    """
    has_image = np.flatnonzero(np.diff(data.first_image) > 0)
    concepts = rng.choice(has_image, size=size, replace=size > len(has_image))
    images = _draw_between(rng, data.first_image[concepts], data.first_image[concepts + 1])
    languages = len(data.languages)
    row = np.repeat(np.arange(size), texts_per_image)
    owner = concepts[row]
    cell = owner * languages + _draw_languages(data, rng, len(row), language_balance)
    start, stop = data.first_text[cell], data.first_text[cell + 1]
    empty = start == stop
    start = np.where(empty, data.first_text[owner * languages], start)
    stop = np.where(empty, data.first_text[(owner + 1) * languages], stop)
    takes_name = rng.random(len(row)) < name_share
    texts = np.where(takes_name & ~empty, start, _draw_between(rng, start, stop))
    filled = start < stop  # a concept without any text contributes its image only
    return Batch(concepts, images, texts[filled], row[filled])


def _draw_languages(data: TrainingData, rng: np.random.Generator, size: int, balance: float) -> Index:
    languages = len(data.languages)
    if balance == 1:
        return rng.integers(languages, size=size)
    counts = np.diff(data.first_text).reshape(-1, languages).sum(0)
    return rng.choice(languages, size=size, p=language_shares(counts, balance))


def _draw_between(rng: np.random.Generator, start: Index, stop: Index) -> Index:
    return start + (rng.random(len(start)) * (stop - start)).astype(np.int64)
