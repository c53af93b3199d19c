"""Questions about the colours of pictures, and a model that learned in seconds to answer them."""

from dataclasses import replace
from pathlib import Path

import pytest

from dmedge.artifact import Artifact
from dmedge.data.records import DatasetConfig
from tests.made_once import folder_once, made_once
from tests.tiny_records import LEARNS, TOWERS, record_config, train_on_records, write_questions

QUESTIONS = 96  # of each split
STEPS = 100


@pytest.fixture(scope="session")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of VQA v2."""
    return folder_once(tmp_path_factory, "asked", lambda folder: write_questions(folder, QUESTIONS))


@pytest.fixture(scope="session")
def answering(tmp_path_factory: pytest.TempPathFactory, asked: Path) -> Artifact:
    """A checkpoint of the text tower that lowers fastest, trained on the answers of the training split alone."""
    settings = LEARNS | {"steps": STEPS, "eval_every": STEPS, "model": replace(TOWERS, text="bag")}
    dataset = DatasetConfig(path=str(asked))
    config = record_config("vqa", dataset, contrastive_weight=0.0, answer_weight=1.0, **settings)
    return made_once(tmp_path_factory, "answering", lambda out: train_on_records(config, out))
