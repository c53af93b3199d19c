"""Where a study takes its pairs from: what can be asked of the data, and how the page speaks of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from dmedge.artifact import Artifact
from dmedge.data.evalset import EvalSet
from dmedge.evidence.attention_study import Target
from dmedge.evidence.pairs import Pairs as AttentionPairs
from dmedge.flow.attention_gallery import Triple
from dmedge.model.checkpoint import Checkpoint
from dmedge.study.cells import Result
from dmedge.study.heads import Variant
from dmedge.study.task import Doubles, Ints, Pairs, Part

if TYPE_CHECKING:
    from dmedge.study.config import StudyConfig

LOW_CONTRAST = 0.2  # share of the pictures that count as low in contrast


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """How the page speaks of the data."""

    data: str  # what is judged on
    sample: str  # what intervals resample
    samples: str  # several of them
    headline: str  # whose accuracy it is
    task: str  # in one or more sentences
    design: str  # the variant that others are compared with
    heads: str  # those of `Ways to fuse`, beside the design
    found: str = ""  # what texts look for, in the headline
    gallery: str = ""  # and among what, with the number for LANGUAGES
    tags: str = ""  # what kinds of texts there are
    no_gallery: str = ""  # why texts look for nothing
    on_top: str = ""  # of what pictures are perturbed
    no_more: str = ""  # what else of a study needs the emoji
    standing: str = ""  # what no figure is from


class Source(Protocol):
    """The data of a study. Cells and tables that need what it has not are left out."""

    @property
    def words(self) -> Words:
        """How the page speaks of it."""
        ...

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, by label."""
        ...

    @property
    def settings(self) -> Mapping[str, object]:
        """What the pairs depend on beside the numbers of the study."""
        ...

    @property
    def gallery_settings(self) -> Mapping[str, object]:
        """What retrieval and attention depend on beside the numbers of the study."""
        ...

    @property
    def variants(self) -> tuple[Variant, ...]:
        """Heads to train; the first is the design that others are compared with."""
        ...

    @property
    def describes(self) -> bool:
        """Whether a text says what its picture shows, so that one can be searched by the other."""
        ...

    @property
    def has_words(self) -> bool:
        """Whether what it shows has words in many languages, of which long and switched texts are made."""
        ...

    def check(self, checkpoint: Checkpoint, artifact: Artifact) -> None:
        """Refuse a checkpoint that the data is not for.

        Raises:
            DmedgeError: it lacks what the study is about.
        """
        ...

    def pairs(self, part: Part) -> Pairs:
        """The pairs of a part.

        Raises:
            DataError: there are too few.
        """
        ...

    def longest(self, checkpoint: Checkpoint) -> int:
        """Tokens that are read of a text."""
        ...

    def members(self) -> Tensor:
        """[classes, concepts], 1 where a concept of the model is of a class; no columns for data without concepts."""
        ...

    def concepts(self, cluster: Ints) -> Ints:
        """[N] number of what each cluster shows: texts belong to pictures of the same number."""
        ...

    def gallery(self) -> EvalSet:
        """What retrieval is measured on."""
        ...

    def small_gallery(self) -> EvalSet:
        """Less of it, for a bundle that runs one item at a time."""
        ...

    def attention_pairs(self, checkpoint: Checkpoint) -> tuple[AttentionPairs, Target]:
        """Pairs whose attention is looked at, and whose probability regions add to."""
        ...

    def triples(self) -> Sequence[Triple]:
        """Pairs whose attention is drawn."""
        ...

    def other_words(self, pairs: Pairs) -> Mapping[int, Sequence[tuple[str, str]]]:
        """(language, word) for each cluster, to switch texts into."""
        ...

    def breakdowns(self, pairs: Pairs) -> Mapping[str, Sequence[str]]:
        """Name of a breakdown -> [N] the group of each pair."""
        ...

    def failure_groups(self, pairs: Pairs) -> Mapping[str, NDArray[np.bool_]]:
        """Name of a group that may fail more often -> [N] whether a pair is in it."""
        ...

    def hardest(self, pairs: Pairs, wrong: Doubles) -> list[Result] | None:
        """Clusters with several pairs, those that fail most first; None where they have no names."""
        ...

    def examples(self) -> Mapping[int, str]:
        """Label -> a character that shows the class, where there are any."""
        ...

    def write_folders(self, folder: Path) -> tuple[str, str]:
        """Data to calibrate by and data to time on, as compress and bench name it; what is written is in `folder`."""
        ...


def open_source(config: "StudyConfig") -> Source:
    """The data that `config` names.

    Raises:
        DataError: it cannot be read.
    """
    if config.data == "emoji":
        from dmedge.study.emoji_source import EmojiSource

        return EmojiSource(config)
    from dmedge.study.record_source import open_records

    return open_records(config)
