"""The checkpoint that comes with the package."""

import json
from pathlib import Path

import pytest

from dmedge.artifact import SHIPPED, Artifact, load_artifact
from dmedge.config import load_config
from dmedge.data.emoji import TEST_STYLE, load_pack
from dmedge.data.evalset import emoji_evalset
from dmedge.data.tokenizer import train_tokenizer
from dmedge.evidence.accuracy import evaluate
from dmedge.flow.recipe import load_recipe
from dmedge.manifest import manifest_json
from dmedge.runtime.encoder import Encoder
from dmedge.training.config import TrainConfig
from dmedge.training.data import load_training_data

MOST_BYTES = 10_000_000


@pytest.fixture(scope="module")
def shipped() -> Artifact:
    return load_artifact(SHIPPED / "emoji", kind="checkpoint")


def test_it_is_small_enough_to_ship(shipped: Artifact) -> None:
    assert sum(path.stat().st_size for path in shipped.root.iterdir()) <= MOST_BYTES


def test_it_was_made_with_the_settings_of_its_recipe(shipped: Artifact) -> None:
    """A setting that came later had its default in effect."""
    recipe = load_recipe("emoji-fusion").first("train").config
    made = {
        key: value for key, value in json.loads(manifest_json(shipped.manifest))["config"].items() if value is not None
    }
    assert load_config(TrainConfig, made) == recipe


@pytest.mark.slow
@pytest.mark.thorough
def test_its_vocabulary_is_what_its_training_text_gives(shipped: Artifact, tmp_path: Path) -> None:
    """Training with the usual size takes this vocabulary over."""
    train_tokenizer(sorted(set(load_training_data(48).texts)), tmp_path / "tokenizer.model", TrainConfig().vocab_size)
    assert (tmp_path / "tokenizer.model").read_bytes() == shipped.file("tokenizer.model").read_bytes()


def test_it_knows_every_locale_of_the_pack(shipped: Artifact) -> None:
    assert set(shipped.manifest.languages) == set(load_pack().locales)


def test_it_finds_what_it_should_in_several_scripts(shipped: Artifact) -> None:
    """Far below what was measured over all locales (0.83 known, 0.61 new), far above chance (0.005)."""
    data = emoji_evalset(TEST_STYLE, locales=["en", "hi", "ru", "sw", "th", "zh"])
    with Encoder(shipped, show_progress=False) as encoder:
        report = evaluate(encoder, data)
    assert report.macro("text_to_image", "known").recall_at_10 > 0.7
    assert report.macro("text_to_image", "novel").recall_at_10 > 0.4
