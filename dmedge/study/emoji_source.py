"""The embedded emoji as the data of a study."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dmedge.artifact import Artifact
from dmedge.data.emoji import TEST_STYLE, load_pack
from dmedge.data.evalset import EvalSet, emoji_evalset
from dmedge.data.languages import language_name, script_of
from dmedge.data.splits import cell_split, is_unseen_emoji
from dmedge.errors import ArtifactError
from dmedge.evidence.attention import check_attends
from dmedge.evidence.attention_study import Target
from dmedge.evidence.pairs import Pairs as AttentionPairs
from dmedge.evidence.pairs import emoji_pairs
from dmedge.flow.attention_gallery import Triple, emoji_triples
from dmedge.model.checkpoint import Checkpoint
from dmedge.study.cells import Result
from dmedge.study.config import StudyConfig
from dmedge.study.features import MOST_TOKENS, vocabulary
from dmedge.study.heads import VARIANTS, Variant
from dmedge.study.looks import contrast, parts
from dmedge.study.pairs import class_names, judged_pairs, training_pairs
from dmedge.study.source import LOW_CONTRAST, Words
from dmedge.study.task import Doubles, Ints, Pairs, Part

VALIDATION_SHARE = 0.25  # of the number of test pairs
MANY_PARTS = 3  # that count as many
ABSTRACT_GROUPS = ("symbols", "flags")  # of emoji that stand for ideas, not for things
SMALL_GALLERY = 20  # texts of a language


@dataclass(frozen=True)
class EmojiSource:
    """Degraded pictures of emoji with one keyword each."""

    config: StudyConfig

    @property
    def words(self) -> Words:
        """How the page speaks of it."""
        return Words(
            data="embedded emoji data",
            sample="emoji",
            samples="emoji",
            headline="Class of a degraded picture and one keyword",
            task=f"The subgroup of an emoji, one of {len(self.classes)}, from its picture at 8 pixels in a style that "
            "was never trained on, and one keyword in any of 100 locales whose cell was held out.",
            design="The shipped design",
            heads="Heads without the votes of concepts, the joint vector",
            found="in an unseen style",
            gallery="Pictures in an unseen style, CLDR names of LANGUAGES; means over locales.",
            tags=" A text is known when its cell was trained on, held out when it was not, novel when its string "
            "occurs nowhere in the training text.",
            on_top=", on top of the degraded pictures of the task",
            standing="COCO, Flickr30k and VQA v2 can be studied too (--data), which is tested on small files in their "
            "formats; none of these sets was at hand, so no figure here is from them.",
        )

    @property
    def classes(self) -> tuple[str, ...]:
        """The subgroups of Unicode's emoji."""
        return class_names()

    @property
    def settings(self) -> Mapping[str, object]:
        """The pairs depend on nothing else."""
        return {}

    @property
    def gallery_settings(self) -> Mapping[str, object]:
        """The style of the pictures."""
        return {"style": TEST_STYLE}

    @property
    def variants(self) -> tuple[Variant, ...]:
        """The design that ships, with the votes of concepts, and all others."""
        return VARIANTS

    @property
    def describes(self) -> bool:
        """Names say what an emoji shows."""
        return True

    @property
    def has_words(self) -> bool:
        """Names and keywords in 100 locales."""
        return True

    def check(self, checkpoint: Checkpoint, artifact: Artifact) -> None:
        """Refuse a checkpoint of other data.

        Raises:
            ArtifactError: it attends to nothing, or has no concept for every emoji that may be trained on.
            DataError: its vocabulary is one of Hugging Face.
        """
        check_attends(checkpoint)
        concepts, wanted = checkpoint.model.config.concepts, self.members().shape[1]
        if concepts != wanted:
            raise ArtifactError(
                f"{artifact.root}: {concepts} concepts; a study expects {wanted}, one for every emoji "
                "of the embedded data; name a checkpoint that was trained on it with concept_head = true, or the "
                "records that this one was trained on by --data"
            )
        vocabulary(checkpoint)

    def pairs(self, part: Part) -> Pairs:
        """The pairs of a part."""
        config = self.config
        if part == "train":
            return training_pairs(config.train_pairs, config.views, config.seed)
        if part == "validation":
            return judged_pairs("validation", max(50, int(config.test_pairs * VALIDATION_SHARE)), config.seed)
        return judged_pairs("test", config.test_pairs, config.seed)

    def longest(self, checkpoint: Checkpoint) -> int:
        """More than any keyword has."""
        return MOST_TOKENS

    def members(self) -> Tensor:
        """[classes, concepts], 1 where a concept of the model is of a class."""
        subgroup = [emoji.subgroup for emoji in load_pack().emoji if not is_unseen_emoji(emoji.hexcode)]
        members = torch.zeros(len(self.classes), len(subgroup))
        members[subgroup, np.arange(len(subgroup))] = 1
        return members

    def concepts(self, cluster: Ints) -> Ints:
        """[N] number of each emoji among those that may be trained on."""
        seen = [i for i, emoji in enumerate(load_pack().emoji) if not is_unseen_emoji(emoji.hexcode)]
        return np.searchsorted(np.array(seen, np.int64), cluster)

    def gallery(self) -> EvalSet:
        """CLDR names against all pictures of the unseen style."""
        limit = self.config.texts_per_language
        return emoji_evalset(style=TEST_STYLE).subset(max_queries_per_language=limit, seed=self.config.seed)

    def small_gallery(self) -> EvalSet:
        """Fewer names of each locale."""
        limit = min(SMALL_GALLERY, self.config.texts_per_language)
        return emoji_evalset(style=TEST_STYLE).subset(max_queries_per_language=limit)

    def attention_pairs(self, checkpoint: Checkpoint) -> tuple[AttentionPairs, Target]:
        """Names that were trained on, with pictures that were not."""
        data = emoji_evalset(style=TEST_STYLE, split="known")
        return emoji_pairs(checkpoint, data, self.config.attention_pairs, seed=self.config.seed), "match"

    def triples(self) -> Sequence[Triple]:
        """Names in several scripts."""
        return emoji_triples()

    def other_words(self, pairs: Pairs) -> Mapping[int, Sequence[tuple[str, str]]]:
        """Keywords of the cells of each emoji that are held out: words that were trained on would say more."""
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

    def breakdowns(self, pairs: Pairs) -> Mapping[str, Sequence[str]]:
        """Category of the emoji, script and language of the keyword."""
        return {
            "group": _categories(pairs),
            "script": [script_of(tag) for tag in pairs.languages],
            "language": [language_name(tag) for tag in pairs.languages],
        }

    def failure_groups(self, pairs: Pairs) -> Mapping[str, NDArray[np.bool_]]:
        """Groups that are told apart by looking at the pairs themselves."""
        pictures, _ = load_pack().images(TEST_STYLE)
        place = {emoji: i for i, emoji in enumerate(np.unique(pairs.cluster))}
        shown = pictures[list(place)]
        row = np.array([place[emoji] for emoji in pairs.cluster])
        low = contrast(shown) <= np.quantile(contrast(shown), LOW_CONTRAST)
        many = np.array([parts(picture) >= MANY_PARTS for picture in shown])
        lengths = np.array([len(text) for text in pairs.texts])
        shares = Counter(pairs.texts)
        return {
            f"low contrast (the lowest {LOW_CONTRAST:.0%} of the pictures)": low[row],
            f"several objects ({MANY_PARTS} or more separate parts)": many[row],
            f"abstract ({', '.join(ABSTRACT_GROUPS)})": np.isin(np.array(_categories(pairs)), ABSTRACT_GROUPS),
            "short keyword (3 characters or fewer)": lengths <= 3,
            "keyword of several words": np.array([" " in text.strip() for text in pairs.texts]),
            "keyword that several test pairs share": np.array([shares[text] > 1 for text in pairs.texts]),
        }

    def hardest(self, pairs: Pairs, wrong: Doubles) -> list[Result]:
        """Emoji with several pairs."""
        pack = load_pack()
        rows: list[Result] = []
        for emoji in np.unique(pairs.cluster):
            mine = pairs.cluster == emoji
            if mine.sum() >= 3:
                entry = pack.emoji[emoji]
                mean, n = float(wrong[mine].mean()), int(mine.sum())
                rows.append({"emoji": entry.char, "name": entry.name, "error": mean, "n": n})
        return sorted(rows, key=lambda row: (-float(row["error"]), -int(row["n"])))

    def examples(self) -> Mapping[int, str]:
        """The first emoji of each class."""
        return {emoji.subgroup: emoji.char for emoji in reversed(load_pack().emoji)}

    def write_folders(self, folder: Path) -> tuple[str, str]:
        """What both take by themselves."""
        return "emoji", "emoji"


def _categories(pairs: Pairs) -> list[str]:
    pack = load_pack()
    return [pack.groups[pack.emoji[i].group] for i in pairs.cluster]
