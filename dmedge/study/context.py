"""What the cells of one study share: its settings, the frozen checkpoint, the pairs and their features."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dmedge.artifact import Artifact
from dmedge.data.emoji import load_pack
from dmedge.data.splits import is_unseen_emoji
from dmedge.errors import ArtifactError
from dmedge.model.checkpoint import Checkpoint, load_checkpoint
from dmedge.study.cells import Cell, Done, run_cell
from dmedge.study.config import StudyConfig
from dmedge.study.features import Features, kept_features
from dmedge.study.pairs import Pairs, class_names, judged_pairs, training_pairs

VALIDATION_SHARE = 0.25  # of the number of test pairs


@dataclass(frozen=True, eq=False)
class Study:
    """One study; what is expensive is made when it is first asked for, and kept in `folder`."""

    config: StudyConfig
    artifact: Artifact
    folder: Path

    @property
    def parents(self) -> Mapping[str, str]:
        """What every cell was made from."""
        return {"checkpoint": self.artifact.digest}

    @cached_property
    def checkpoint(self) -> Checkpoint:
        """The frozen model."""
        return load_checkpoint(self.artifact)

    @cached_property
    def train(self) -> Pairs:
        """Training pairs."""
        return training_pairs(self.config.train_pairs, self.config.views, self.config.seed)

    @cached_property
    def validation(self) -> Pairs:
        """Pairs for choices and curves."""
        count = max(50, int(self.config.test_pairs * VALIDATION_SHARE))
        return judged_pairs("validation", count, self.config.seed)

    @cached_property
    def test(self) -> Pairs:
        """Pairs that figures are read from."""
        return judged_pairs("test", self.config.test_pairs, self.config.seed)

    @cached_property
    def train_features(self) -> Features:
        """Of the training pairs."""
        return self._features("train", self.train)

    @cached_property
    def validation_features(self) -> Features:
        """Of the validation pairs."""
        return self._features("validation", self.validation)

    @cached_property
    def test_features(self) -> Features:
        """Of the test pairs."""
        return self._features("test", self.test)

    @cached_property
    def members(self) -> Tensor:
        """[classes, concepts], 1 where a concept of the model is of a class."""
        subgroup = [emoji.subgroup for emoji in load_pack().emoji if not is_unseen_emoji(emoji.hexcode)]
        members = torch.zeros(len(class_names()), len(subgroup))
        members[subgroup, np.arange(len(subgroup))] = 1
        return members

    def check_concepts(self) -> None:
        """Refuse a checkpoint of other data.

        Raises:
            ArtifactError: the model has no concept for every emoji that may be trained on.
        """
        concepts, wanted = self.checkpoint.model.config.concepts, self.members.shape[1]
        if concepts != wanted:
            raise ArtifactError(
                f"{self.artifact.root}: {concepts} concepts; a study expects {wanted}, one for every emoji "
                "of the embedded data; name a checkpoint that was trained on it with concept_head = true"
            )

    def task_settings(self) -> dict[str, object]:
        """Settings that the pairs depend on."""
        keys = ("seed", "train_pairs", "test_pairs", "views")
        return {key: value for key, value in asdict(self.config).items() if key in keys}

    def run(self, cell: Cell) -> Done:
        """Run one cell, or take what it found before."""
        return run_cell(cell, self.folder / "cells", self.parents)

    def _features(self, name: str, pairs: Pairs) -> Features:
        settings = self.task_settings()
        key = "-".join(str(value) for value in settings.values())
        place = self.folder / "features" / f"{name}-{self.artifact.digest[:12]}-{key}.safetensors"
        return kept_features(self.checkpoint, pairs, place)
