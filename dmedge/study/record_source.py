"""A user's own records as the data of a study."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dmedge.artifact import Artifact
from dmedge.data.evalset import EvalSet, dataset_evalset
from dmedge.data.readers import read_dataset
from dmedge.data.records import Dataset, DatasetConfig
from dmedge.errors import DataError
from dmedge.evidence.attention_study import Target
from dmedge.evidence.leakage import check_training, find_training
from dmedge.evidence.pairs import Pairs as AttentionPairs
from dmedge.evidence.pairs import preprocessed
from dmedge.flow.attention_gallery import Triple
from dmedge.model.checkpoint import Checkpoint
from dmedge.study.config import StudyConfig
from dmedge.study.heads import FUSIONS, VARIANTS, Variant
from dmedge.study.record_errors import breakdowns, failure_groups
from dmedge.study.record_folders import write_captions
from dmedge.study.record_pairs import Question, fingerprint, question_of, record_pairs
from dmedge.study.record_words import record_words
from dmedge.study.source import Words
from dmedge.study.task import Doubles, Ints, Pairs, Part
from dmedge.training.record_materials import Rows, draw_out, hold_out

TEST_SPLITS = {"coco": "val", "flickr30k": "test", "vqa": "val"}  # those whose annotations are public
VALIDATION_SHARE, MOST_VALIDATION = 0.1, 1000  # of the training records, which curves are drawn on
DRAWN, SMALL_GALLERY = 4, 500  # pairs whose attention is drawn; records that a bundle is judged on


@dataclass(frozen=True, eq=False)
class RecordSource:
    """Records of any format of `dmedge.data.readers`, those to train on and those to judge on."""

    config: StudyConfig
    train: Dataset
    test: Dataset
    question: Question

    @property
    def words(self) -> Words:
        """How the page speaks of it."""
        is_standard = self.config.data in TEST_SPLITS
        return record_words(self.question, self.train.name, self.test.name, is_standard=is_standard)

    @property
    def classes(self) -> tuple[str, ...]:
        """Classes of the training records, their answers, or whether a text is the picture's own."""
        return self.question.classes

    @cached_property
    def settings(self) -> Mapping[str, object]:
        """A digest of the pairs: other texts, pictures or classes are other cells."""
        return {"data": self.config.data, "pairs": fingerprint(list(self._parts.values()), self.classes)}

    @property
    def gallery_settings(self) -> Mapping[str, object]:
        """As of the pairs."""
        return {**self.settings, "test_pairs": self.config.test_pairs}

    @property
    def variants(self) -> tuple[Variant, ...]:
        """Cross-attention, and what differs from it; none has votes, since records have no concepts."""
        design = FUSIONS[0]
        plain = [replace(variant, votes=False) for variant in VARIANTS[1:]]
        return (design, *(variant for variant in plain if variant != design))

    @property
    def describes(self) -> bool:
        """Captions say what a picture shows, questions do not."""
        return self.question.kind != "answer"

    @property
    def has_words(self) -> bool:
        """Records have texts and nothing else."""
        return False

    @cached_property
    def _parts(self) -> Mapping[Part, Pairs]:
        config = self.config
        held = min(max(2, round(VALIDATION_SHARE * len(self.train))), MOST_VALIDATION)
        train, validation = draw_out(self.train, held, [config.seed, 19])
        count = max(50, config.test_pairs // 4)
        parts: tuple[tuple[Part, Dataset, DatasetConfig, int], ...] = (
            ("train", train, config.dataset, config.train_pairs),
            ("validation", validation, config.dataset, count),
            ("test", self.test, self._test_config, config.test_pairs),
        )
        return {
            name: record_pairs(name, data, self.question, how, most, config.seed) for name, data, how, most in parts
        }

    @property
    def _test_config(self) -> DatasetConfig:
        return self.config.test or self.config.dataset

    def check(self, checkpoint: Checkpoint, artifact: Artifact) -> None:
        """Refuse data that gives too few pairs, or that the checkpoint was trained on; any other checkpoint will do.

        Raises:
            DataError: too few records are left, too many pictures cannot be read, or a test picture was trained on.
        """
        check_training(find_training(artifact), self.gallery())
        self.pairs("train")  # all parts are drawn at once, before anything else is done

    def pairs(self, part: Part) -> Pairs:
        """The pairs of a part."""
        return self._parts[part]

    def longest(self, checkpoint: Checkpoint) -> int:
        """As much as the model takes."""
        return checkpoint.model.config.context_length

    def members(self) -> Tensor:
        """[classes, 0]: there are no concepts."""
        return torch.zeros(len(self.classes), 0)

    def concepts(self, cluster: Ints) -> Ints:
        """[N] the pictures themselves: captions belong to their own."""
        return cluster

    def gallery(self) -> EvalSet:
        """All texts of up to `test_pairs` test records, against the pictures of all of them."""
        return self._gallery(self.config.test_pairs)

    def small_gallery(self) -> EvalSet:
        """The same of fewer records."""
        return self._gallery(min(self.config.test_pairs, SMALL_GALLERY))

    def _gallery(self, records: int) -> EvalSet:
        rows = np.random.default_rng([self.config.seed, 29]).permutation(len(self.test))[:records]
        return dataset_evalset(Rows(self.test, np.sort(rows).tolist()), self._test_config.max_megapixels)

    def attention_pairs(self, checkpoint: Checkpoint) -> tuple[AttentionPairs, Target]:
        """Test pairs whose text is the picture's own, no picture twice.

        Asked for the match; of a model that was trained to answer, for the answer.
        """
        pairs, rows = self.pairs("test"), self._own_rows(self.config.attention_pairs)
        classes = None
        if self.question.kind == "answer" and checkpoint.answers and not checkpoint.model.config.classes:
            place = {answer: number for number, answer in enumerate(checkpoint.answers)}
            named = [place.get(self.classes[label], -1) if label >= 0 else -1 for label in pairs.label[rows]]
            known = np.array(named, np.int64)
            if (known >= 0).any():
                rows, classes = rows[known >= 0], known[known >= 0]
        pixels = preprocessed(checkpoint, [pairs.pictures[int(place)] for place in pairs.picture[rows]])
        shown = AttentionPairs(pixels, tuple(pairs.texts[row] for row in rows), classes)
        return shown, "match" if classes is None else "class"

    def triples(self) -> Sequence[Triple]:
        """The first of these pairs."""
        pairs = self.pairs("test")
        return [
            Triple(pairs.pictures[int(pairs.picture[row])], pairs.texts[row], pairs.languages[row])
            for row in self._own_rows(DRAWN).tolist()
        ]

    def _own_rows(self, count: int) -> Ints:
        pairs = self.pairs("test")
        own = np.flatnonzero(pairs.is_own)
        _, first = np.unique(pairs.picture[own], return_index=True)
        return own[np.sort(first)][:count]

    def other_words(self, pairs: Pairs) -> Mapping[int, Sequence[tuple[str, str]]]:
        """None are known."""
        return {}

    def breakdowns(self, pairs: Pairs) -> Mapping[str, Sequence[str]]:
        """By class, answer and language, as far as the data has them."""
        return breakdowns(pairs, self.classes)

    def failure_groups(self, pairs: Pairs) -> Mapping[str, NDArray[np.bool_]]:
        """Groups that are told apart by looking at the pairs themselves."""
        return failure_groups(pairs)

    def hardest(self, pairs: Pairs, wrong: Doubles) -> None:
        """Pictures have no names to list."""

    def examples(self) -> Mapping[int, str]:
        """No character shows a class of pictures."""
        return {}

    def write_folders(self, folder: Path) -> tuple[str, str]:
        """Captioned pictures of the training part, and some of the test part."""
        return write_captions(self.pairs("train"), folder / "calibration"), write_captions(
            self.pairs("test"), folder / "shown"
        )


def open_records(config: StudyConfig) -> RecordSource:
    """Read the records that `config` names.

    Those to judge on are `test`, or the test split of the format, or a part that is held out as training holds
    it out with the same seed.

    Raises:
        DataError: the data cannot be read, or nothing is left to judge on.
    """
    train = read_dataset(config.data, config.dataset)
    split = TEST_SPLITS.get(config.data, config.dataset.split)
    test: Dataset | None
    if config.test is not None:
        test = read_dataset(config.data, config.test)
    elif split != config.dataset.split:
        test = read_dataset(config.data, replace(config.dataset, split=split))
    else:
        train, test = hold_out(train, config.seed)
    if test is None:
        raise DataError(
            f"{train.name}: {len(train)} records; expected enough to hold some out; set [test] to other data"
        )
    return RecordSource(config, train, test, question_of(train))
