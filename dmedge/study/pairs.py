"""The task of a study: name the class of what a degraded picture and one keyword show together.

The class is the emoji's subgroup. The picture is small, blurred and, when it is judged, in a style that
nobody trained on; the keyword is one word that several emoji share. So neither of them suffices alone.
"""

import numpy as np
import torch
from torch.nn import functional as F

from dmedge.data.emoji import TEST_STYLE, TRAIN_STYLES, VALIDATION_STYLE, EmojiPack, load_pack
from dmedge.data.splits import cell_split, is_unseen_emoji, training_texts
from dmedge.study.task import Ints, Pairs, Part, Pixels

SIDES = (6, 8, 12, 16, 24)  # pixels that training pictures are reduced to
JUDGED_SIDE = 8  # and those of validation and test
_KERNEL = (1.0, 2.0, 1.0)  # binomial, which is Gaussian with a variance of half a pixel
_CHUNK = 2048


def class_names() -> tuple[str, ...]:
    """Names of the classes, by label."""
    return load_pack().subgroups


def judged_pairs(part: Part, count: int, seed: int) -> Pairs:
    """Pairs in a style that nobody trained on, with keywords of cells that were held out for `part`.

    Every locale has as many pairs as the next, as far as its keywords reach.
    """
    pack = load_pack()
    images, present = pack.images(VALIDATION_STYLE if part == "validation" else TEST_STYLE)
    keywords = {tag: [row for row in rows if present[row[0]]] for tag, rows in _keywords(pack, part).items()}
    rng = np.random.default_rng([seed, len(part)])
    emoji, texts, languages = _draw(keywords, count, rng)
    shown, picture = np.unique(emoji, return_inverse=True)
    pictures = degrade(images[shown], np.full(len(shown), JUDGED_SIDE))
    return Pairs(part, pictures, picture, texts, languages, _subgroups(pack)[emoji], emoji)


def training_pairs(count: int, views: int, seed: int) -> Pairs:
    """Pairs of training styles and training keywords; a picture comes degraded in up to `views` ways."""
    pack = load_pack()
    rng = np.random.default_rng([seed, 5])
    tiles, owner = _training_tiles(pack)
    owners = np.tile(owner, views)
    emoji, texts, languages = _draw(_keywords(pack, "train"), count, rng)
    order = np.argsort(owners, kind="stable")
    first, last = (np.searchsorted(owners[order], emoji, side=side) for side in ("left", "right"))
    has_picture = first < last
    picture = order[np.where(has_picture, first + (rng.random(len(emoji)) * (last - first)).astype(np.int64), 0)]
    keep = np.flatnonzero(has_picture)
    shown, place = np.unique(picture[keep], return_inverse=True)
    return Pairs(
        "train",
        degrade(tiles[shown % len(tiles)], rng.choice(SIDES, size=len(shown))),
        place,
        tuple(texts[row] for row in keep),
        tuple(languages[row] for row in keep),
        _subgroups(pack)[emoji[keep]],
        emoji[keep],
    )


def _training_tiles(pack: EmojiPack) -> tuple[Pixels, Ints]:
    """Pictures of the training styles, of emoji that may be trained on, and which emoji each shows."""
    is_seen = np.array([not is_unseen_emoji(emoji.hexcode) for emoji in pack.emoji])
    tiles, owner = [], []
    for style in TRAIN_STYLES:
        images, present = pack.images(style)
        drawn = np.flatnonzero(present & is_seen)
        tiles.append(images[drawn])
        owner.append(drawn)
    return np.concatenate(tiles), np.concatenate(owner)


def degrade(pictures: Pixels, sides: Ints) -> Pixels:
    """Reduce every picture to its number of pixels a side, enlarge it again, and blur it.

    Args:
        pictures: uint8 [M, S, S, 3].
        sides: [M], from 1 to S; S leaves the picture as it is but for the blur.

    Returns:
        uint8 [M, S, S, 3].
    """
    result = np.empty_like(pictures)
    size = pictures.shape[1]
    kernel = torch.outer(torch.tensor(_KERNEL), torch.tensor(_KERNEL)).expand(3, 1, 3, 3) / sum(_KERNEL) ** 2
    for side in np.unique(sides):
        rows = np.flatnonzero(sides == side)
        for start in range(0, len(rows), _CHUNK):
            part = rows[start : start + _CHUNK]
            x = torch.from_numpy(pictures[part]).permute(0, 3, 1, 2).float()
            x = F.interpolate(x, (int(side),) * 2, mode="bilinear", antialias=True, align_corners=False)
            x = F.interpolate(x, (size,) * 2, mode="bilinear", align_corners=False)
            x = F.conv2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), kernel, groups=3)
            result[part] = x.round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()
    return result


def _subgroups(pack: EmojiPack) -> Ints:
    return np.array([emoji.subgroup for emoji in pack.emoji], np.int64)


def _keywords(pack: EmojiPack, part: Part) -> dict[str, list[tuple[int, str]]]:
    """(emoji, keyword) of the cells of `part`, by locale."""
    found: dict[str, list[tuple[int, str]]] = {locale: [] for locale in pack.locales}
    if part == "train":
        for text in training_texts(pack):
            if not text.is_name:
                found[text.locale].append((text.emoji, text.text))
        return found
    seen = [(i, emoji.hexcode) for i, emoji in enumerate(pack.emoji) if not is_unseen_emoji(emoji.hexcode)]
    for locale, rows in found.items():
        words = pack.keywords(locale)
        rows += [(i, word) for i, code in seen if cell_split(code, locale) == part for word in words[i]]
    return found


def _draw(
    keywords: dict[str, list[tuple[int, str]]], count: int, rng: np.random.Generator
) -> tuple[Ints, tuple[str, ...], tuple[str, ...]]:
    """As many keywords of every locale as there are, up to `count` in all, in random order."""
    per_locale = -(-count // len(keywords))
    rows: list[tuple[int, str, str]] = []
    for locale, found in keywords.items():
        chosen = rng.permutation(len(found))[:per_locale]
        rows += [(*found[place], locale) for place in chosen]
    rows = [rows[place] for place in rng.permutation(len(rows))[:count]]
    emoji = np.array([row[0] for row in rows], np.int64)
    return emoji, tuple(row[1] for row in rows), tuple(row[2] for row in rows)
