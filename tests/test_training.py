"""Laws of training: what a kill, a seed, a constant or a zero must not change, and what data must never be seen."""

import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dmedge.artifact import load_artifact
from dmedge.config import load_config
from dmedge.data.emoji import TEST_STYLE, TRAIN_STYLES, VALIDATION_STYLE, load_pack
from dmedge.data.splits import cell_split, is_unseen_emoji
from dmedge.errors import ArtifactError, ConfigError, DmedgeError
from dmedge.model.checkpoint import load_checkpoint
from dmedge.training.augment import augment_images, noisy_text
from dmedge.training.batch import TextChunk
from dmedge.training.batches import Batcher, pad
from dmedge.training.config import TrainConfig
from dmedge.training.data import TrainingData, draw_batch, emoji_training_data
from dmedge.training.emoji_materials import concept_model as initial_model
from dmedge.training.fusion import concept_fusion_loss, train_fusion
from dmedge.training.objective import Objective
from dmedge.training.optimizer import learning_rate
from tests.tiny_training import SIZE, TOWERS, tiny_batcher, tiny_config, tiny_data, tiny_train


@pytest.fixture
def batcher(tmp_path: Path) -> Batcher:
    return tiny_batcher(tmp_path)


# A run that is killed


@pytest.mark.parametrize(
    ("where", "calls", "saved"), [("train_step", 7, 4), ("concept_fusion_loss", 2, 10)], ids=["towers", "fusion"]
)
def test_a_killed_run_continues_to_the_very_same_checkpoint(
    tmp_path: Path, where: str, calls: int, saved: int, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "killed"
    child = subprocess.run(
        [sys.executable, "-m", "tests.tiny_training", str(out), where, str(calls)], capture_output=True, check=False
    )
    assert child.returncode == -9, child.stderr
    assert not out.exists()
    assert max((tmp_path / "killed.steps").glob("step-*.pt")).name == f"step-{saved:08d}.pt"

    caplog.set_level("INFO", logger="dmedge")
    resumed, whole = tiny_train(out), tiny_train(tmp_path / "whole")
    assert resumed.manifest.files == whole.manifest.files
    assert resumed.digest == whole.digest
    assert not (tmp_path / "killed.steps").exists()


def test_steps_of_another_run_are_not_continued(tmp_path: Path) -> None:
    out = tmp_path / "run"
    child = subprocess.run(
        [sys.executable, "-m", "tests.tiny_training", str(out), "train_step", "5"], capture_output=True, check=False
    )
    assert child.returncode == -9, child.stderr
    with pytest.raises(ConfigError, match="belongs to a run with other settings"):
        tiny_train(out, tiny_config(learning_rate=1e-4))


def test_an_existing_directory_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with pytest.raises(ArtifactError, match="exists already; expected a new directory"):
        tiny_train(tmp_path / "run")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_loss_that_is_no_number_stops_the_run(tmp_path: Path) -> None:
    with pytest.raises(DmedgeError, match=r"step \d+: the loss is (nan|inf) .* on key \d+.*; expected a finite number"):
        tiny_train(tmp_path / "run", tiny_config(learning_rate=1e30, clip_norm=1e30, warmup_steps=0))
    assert not (tmp_path / "run").exists()
    (saved,) = (tmp_path / "run.steps").glob("not-finite-step-*.pt")
    batch = torch.load(saved, weights_only=True)
    assert batch["pixels"].shape == (6, SIZE, SIZE, 3) and len(batch["key"]) == 6


def test_the_checkpoint_loads_and_names_its_languages(tmp_path: Path) -> None:
    artifact = load_artifact(tiny_train(tmp_path / "run").root, kind="checkpoint")
    checkpoint = load_checkpoint(artifact)
    assert checkpoint.labels == ("red", "green", "blue")
    assert artifact.manifest.languages == tiny_data().languages
    assert artifact.manifest.parents == {}
    history = artifact.manifest.summary["validation"]
    assert isinstance(history, list)
    assert [row["step"] for row in history] == [5, 10]


# What a step minimises


def test_constant_features_lose_the_log_of_the_candidates(batcher: Batcher) -> None:
    model = initial_model(batcher)
    assert model.head is not None
    torch.nn.init.zeros_(model.head.keys.weight)  # no concept is preferred: the posterior is uniform
    batch = batcher.batch(0, 0, 1)
    objective = Objective(model, tiny_config(contrastive_weight=1.0))
    encoded = objective(batch)
    concepts, images = math.log(batcher.data.concepts), math.log(len(batch.key))
    assert encoded["local/image"].item() == pytest.approx(concepts, abs=1e-4)
    assert encoded["local/text"].item() == pytest.approx(concepts, abs=1e-4)
    assert objective.joint(encoded)["contrastive"].item() == pytest.approx(images, abs=1e-4)


def test_padding_in_other_chunks_changes_no_loss(batcher: Batcher) -> None:
    objective = Objective(initial_model(batcher).eval(), tiny_config(match_weight=0.0, class_weight=0.0))
    batch = batcher.batch(0, 0, 1)
    chunks = batch.chunks
    ids = [row[: int(kept.sum())].tolist() for chunk in chunks for row, kept in zip(chunk.ids, chunk.mask, strict=True)]
    together = TextChunk(*pad(ids), torch.cat([chunk.key for chunk in chunks]))
    torch.testing.assert_close(objective(batch), objective(replace(batch, chunks=(together,))))


# Where a run starts


def test_warm_start_points_every_text_at_its_concept(batcher: Batcher) -> None:
    model = initial_model(batcher).eval()
    ids, mask = pad(list(batcher.tokens))
    with torch.inference_mode():
        found = model.concept_logits(model.text_features(ids, mask)[0]).argmax(1)
    assert (found.numpy() == batcher.data.text_concept).mean() > 0.95


def test_without_warm_start_texts_point_anywhere(tmp_path: Path) -> None:
    batcher = tiny_batcher(tmp_path, tiny_config(warm_start=False))
    model = initial_model(batcher).eval()
    ids, mask = pad(list(batcher.tokens))
    with torch.inference_mode():
        found = model.concept_logits(model.text_features(ids, mask)[0]).argmax(1)
    assert (found.numpy() == batcher.data.text_concept).mean() < 0.5


def test_a_seed_fixes_the_start(tmp_path: Path, batcher: Batcher) -> None:
    first, again = initial_model(batcher).state_dict(), initial_model(batcher).state_dict()
    other = initial_model(replace(batcher, config=tiny_config(seed=1))).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["image.stem.conv.weight"], other["image.stem.conv.weight"])


# Batches


def test_a_batch_depends_on_nothing_but_seed_and_step(batcher: Batcher) -> None:
    def tensors(step: int) -> list[torch.Tensor]:
        batch = batcher.batch(step, 0, 1)
        return [batch.pixels, *(tensor for chunk in batch.chunks for tensor in (chunk.ids, chunk.mask, chunk.key))]

    first, other, again = tensors(3), tensors(4), tensors(3)
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])
    reseeded = replace(batcher, config=replace(batcher.config, seed=1))
    assert not np.array_equal(reseeded.draw(3)[0].concepts, batcher.draw(3)[0].concepts)


def test_concepts_and_languages_are_drawn_alike() -> None:
    data, steps, size, per_image = tiny_data(), 2000, 6, 3
    concepts = np.zeros(data.concepts)
    languages = np.zeros(len(data.languages))
    for step in range(steps):
        batch = draw_batch(data, np.random.default_rng([0, step]), size, per_image, name_share=0.5)
        concepts += np.bincount(batch.concepts, minlength=data.concepts)
        cell = np.searchsorted(data.first_text, batch.texts, side="right") - 1
        languages += np.bincount(cell % len(data.languages), minlength=len(data.languages))
        assert len(set(batch.concepts)) == size  # distinct, so no pair is its neighbour's match
        assert np.array_equal(data.text_concept[batch.texts], batch.concepts[batch.text_row])
    # Five standard deviations of a share p over n draws: 5 * sqrt(p / n).
    assert np.abs(concepts / concepts.sum() - 1 / 12).max() < 5 * math.sqrt(1 / 12 / (steps * size))
    assert np.abs(languages / languages.sum() - 1 / 3).max() < 5 * math.sqrt(1 / 3 / (steps * size * per_image))


def test_a_language_without_text_lends_from_another() -> None:
    data = without_text(tiny_data(), concept=4, language=1)
    for step in range(50):
        batch = draw_batch(data, np.random.default_rng(step), 12, 6, name_share=0.5)
        assert np.array_equal(data.text_concept[batch.texts], batch.concepts[batch.text_row])
        assert len(batch.texts) == 12 * 6


def without_text(data: TrainingData, concept: int, language: int) -> TrainingData:
    """The data with one cell emptied."""
    cell = concept * len(data.languages) + language
    start, stop = data.first_text[cell : cell + 2]
    keep = np.r_[0:start, stop : len(data.texts)]
    first = data.first_text.copy()
    first[cell + 1 :] -= stop - start
    texts = tuple(data.texts[row] for row in keep)
    return replace(data, texts=texts, first_text=first, text_concept=data.text_concept[keep])


@pytest.fixture(scope="module")
def emoji_data() -> TrainingData:
    return emoji_training_data(load_pack())


def test_nothing_held_out_is_ever_drawn(emoji_data: TrainingData) -> None:
    pack = load_pack()
    seen = [emoji for emoji in pack.emoji if not is_unseen_emoji(emoji.hexcode)]
    assert emoji_data.concepts == len(seen) < len(pack.emoji)
    counts = np.diff(emoji_data.first_text)
    for cell in np.flatnonzero(counts):
        concept, language = divmod(int(cell), len(emoji_data.languages))
        assert cell_split(seen[concept].hexcode, emoji_data.languages[language]) == "train"
    assert not {VALIDATION_STYLE, TEST_STYLE} & set(TRAIN_STYLES)
    drawn = sum(int(pack.images(style)[1].sum()) for style in TRAIN_STYLES)
    assert len(emoji_data.images) < drawn  # those of the unseen emoji are left out
    assert emoji_data.first_image[-1] == len(emoji_data.images)


def test_texts_of_the_embedded_data_belong_to_their_cells(emoji_data: TrainingData) -> None:
    pack = load_pack()
    seen = [i for i, emoji in enumerate(pack.emoji) if not is_unseen_emoji(emoji.hexcode)]
    language = emoji_data.languages.index("de")
    for concept in (0, 100, 1000):
        start, stop = emoji_data.first_text[concept * len(emoji_data.languages) + language :][:2]
        words = {pack.names("de")[seen[concept]], *pack.keywords("de")[seen[concept]]}
        assert set(emoji_data.texts[start:stop]) in (words, set())


def test_unknown_data_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="data = 'emojis'; expected 'emoji', or one of folder"):
        tiny_train(tmp_path / "run", tiny_config(data="emojis"))


# Augmentation


def test_augmentation_of_no_strength_is_the_identity() -> None:
    pixels = torch.randint(0, 256, (4, 16, 16, 3), dtype=torch.uint8)
    assert torch.equal(augment_images(pixels, pixels.flip(0), torch.Generator().manual_seed(0), 0.0), pixels)


def test_augmentation_draws_from_its_generator_alone() -> None:
    pixels = torch.randint(0, 256, (8, 16, 16, 3), dtype=torch.uint8)
    first = augment_images(pixels, pixels, torch.Generator().manual_seed(1), 1.0)
    torch.rand(100)
    assert torch.equal(first, augment_images(pixels, pixels, torch.Generator().manual_seed(1), 1.0))
    assert not torch.equal(first, pixels)
    assert first.dtype == torch.uint8
    assert first.shape == pixels.shape


def test_noisy_text_is_never_empty(rng: np.random.Generator) -> None:
    texts = ["", "a", "ab", "abc", "東京タワー", "a b", "🍜"]
    noisy = [[noisy_text(text, rng) for _ in range(50)] for text in texts]
    assert all(variant or not text for text, variants in zip(texts, noisy, strict=True) for variant in variants)
    assert len(set(noisy[4])) > 3


# The rest of the loop


def test_a_run_of_no_steps_keeps_its_towers_and_trains_the_fusion(tmp_path: Path) -> None:
    first = tiny_train(tmp_path / "first")
    second = tiny_train(tmp_path / "second", tiny_config(init=str(first.root), steps=0, seed=1))
    before, after = (load_checkpoint(artifact).model.state_dict() for artifact in (first, second))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and all(name.startswith("fusion.") for name in changed)
    assert dict(second.manifest.parents) == {"init": first.digest}
    history = second.manifest.summary["validation"]
    assert isinstance(history, list) and [row["step"] for row in history] == [0]


def test_fusion_training_leaves_the_towers_bit_identical(batcher: Batcher) -> None:
    model = initial_model(batcher)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    train_fusion(model, lambda model, step: concept_fusion_loss(model, batcher, step), batcher.config)
    after = model.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all(name.startswith("fusion.") for name in changed)


def test_a_model_without_fusion_has_none_to_train(batcher: Batcher) -> None:
    config = tiny_config(model=replace(TOWERS, fusion="none"))
    model = initial_model(replace(batcher, config=config))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    train_fusion(model, lambda model, step: concept_fusion_loss(model, batcher, step), config)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_the_learning_rate_rises_stays_and_falls_to_a_hundredth() -> None:
    config = tiny_config(warmup_steps=10, learning_rate=1e-2, cooldown_share=0.25)
    rates = [learning_rate(step, 100, config) for step in range(101)]
    assert rates[0] == pytest.approx(1e-3)
    assert rates[9:76] == pytest.approx([1e-2] * 67)
    assert rates[-1] == pytest.approx(1e-4)
    assert sorted(rates[75:], reverse=True) == rates[75:]


def test_a_longer_run_begins_like_a_shorter_one() -> None:
    config = tiny_config(cooldown_share=0.5)
    assert [learning_rate(step, 40, config) for step in range(20)] == [
        learning_rate(step, 80, config) for step in range(20)
    ]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"stpes": 3}, "unknown key 'stpes'; did you mean 'steps'?"),
        ({"steps": -1}, "steps is -1; expected 0 or more"),
        ({"batch_size": 1}, "a contrastive loss needs 2 or more"),
        ({"name_share": 1.5}, "name_share is 1.5; expected a share between 0 and 1"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0; expected more than 0"),
        ({"vocab_size": 100}, "byte fallback alone takes 256"),
        ({"precision": "float61"}, "'float61'.*did you mean"),
        ({"model": {"text_with": 64}}, "unknown key 'text_with'; did you mean 'text_width'?"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_bad_settings_are_named(table: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(TrainConfig, table)


def test_a_damaged_newest_state_falls_back_to_the_one_before(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    out = tmp_path / "run"
    child = subprocess.run(
        [sys.executable, "-m", "tests.tiny_training", str(out), "train_step", "9"], capture_output=True, check=False
    )
    assert child.returncode == -9, child.stderr
    _, newest = sorted((tmp_path / "run.steps").glob("step-*.pt"))
    newest.write_bytes(newest.read_bytes()[:1000])
    caplog.set_level("INFO", logger="dmedge")
    resumed = tiny_train(out)
    assert f"{newest.name}: cannot be read" in caplog.text and "at step 4 of 10" in caplog.text
    assert resumed.digest == tiny_train(tmp_path / "whole").digest

    child = subprocess.run(
        [sys.executable, "-m", "tests.tiny_training", str(tmp_path / "next"), "train_step", "5"],
        capture_output=True,
        check=False,
    )
    for state in (tmp_path / "next.steps").glob("step-*.pt"):
        state.write_bytes(b"")
    with pytest.raises(ConfigError, match=r"none of its 1 states can be read; .*remove the folder to start anew"):
        tiny_train(tmp_path / "next")


def test_a_run_that_could_not_begin_stands_in_nobodys_way(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="languages: no text in 'xx'"):
        tiny_train(tmp_path / "run", tiny_config(languages=("xx",)))
    assert not list(tmp_path.iterdir())
    tiny_train(tmp_path / "run")


def test_a_run_that_died_early_is_not_continued_with_another_vocabulary(tmp_path: Path) -> None:
    out = tmp_path / "run"
    subprocess.run(
        [sys.executable, "-m", "tests.tiny_training", str(out), "train_step", "1"], capture_output=True, check=False
    )
    assert not list((tmp_path / "run.steps").glob("step-*.pt"))
    with pytest.raises(ConfigError, match="belongs to a run with other settings"):
        tiny_train(out, tiny_config(vocab_size=420))
