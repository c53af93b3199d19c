"""What the cells of one study share: its settings, the frozen checkpoint, the pairs and their features."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from torch import Tensor

from dmedge.artifact import Artifact
from dmedge.model.checkpoint import Checkpoint, load_checkpoint
from dmedge.study.cells import Cell, Done, run_cell
from dmedge.study.config import StudyConfig
from dmedge.study.features import Features, kept_features
from dmedge.study.source import Source, open_source
from dmedge.study.task import Pairs


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
    def source(self) -> Source:
        """The data that it is of."""
        return open_source(self.config)

    @property
    def design(self) -> str:
        """Name of the variant that others are compared with."""
        return self.source.variants[0].name

    @cached_property
    def train(self) -> Pairs:
        """Training pairs."""
        return self.source.pairs("train")

    @cached_property
    def validation(self) -> Pairs:
        """Pairs for choices and curves."""
        return self.source.pairs("validation")

    @cached_property
    def test(self) -> Pairs:
        """Pairs that figures are read from."""
        return self.source.pairs("test")

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
        """[classes, concepts], 1 where a concept of the model is of a class; no columns for data without concepts."""
        return self.source.members()

    def task_settings(self) -> dict[str, object]:
        """Settings that the pairs depend on."""
        keys = ("seed", "train_pairs", "test_pairs", "views")
        return {key: getattr(self.config, key) for key in keys} | dict(self.source.settings)

    def run(self, cell: Cell) -> Done:
        """Run one cell, or take what it found before."""
        return run_cell(cell, self.folder / "cells", self.parents)

    def _features(self, name: str, pairs: Pairs) -> Features:
        settings = self.task_settings()
        key = "-".join(str(value) for value in settings.values())
        place = self.folder / "features" / f"{name}-{self.artifact.digest[:12]}-{key}.safetensors"
        return kept_features(self.checkpoint, pairs, place, self.source.longest(self.checkpoint))
