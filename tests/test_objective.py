"""What a step minimises reaches what it should train, and figures of evaluation are those of their definitions."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from dmedge.data.transforms import Preprocess
from dmedge.evidence.accuracy import evaluate
from dmedge.model.checkpoint import load_checkpoint
from dmedge.training.augment import shrink
from dmedge.training.batch import TrainBatch
from dmedge.training.batches import Batcher
from dmedge.training.emoji_materials import concept_model
from dmedge.training.objective import Objective, freeze_idle_
from dmedge.training.sharpness import GRID, sharpen_, sharpened
from dmedge.training.style_mixing import mix_styles, style_mixing
from dmedge.training.validation import LiveEncoder, answer_figures, average_precision, class_figures
from tests.tiny_training import TOWERS, tiny_batcher, tiny_config, tiny_evalset, tiny_train


@pytest.fixture(scope="module")
def batcher(tmp_path_factory: pytest.TempPathFactory) -> Batcher:
    return tiny_batcher(tmp_path_factory.mktemp("objective"))


def objective_of(batcher: Batcher, **settings: Any) -> Objective:
    config = tiny_config(**settings)
    return Objective(concept_model(replace(batcher, config=config)), config)


def labelled(batcher: Batcher) -> TrainBatch:
    batch = batcher.batch(0, 0, 1)
    return replace(batch, labels=torch.from_numpy(batcher.data.classes)[batch.key])


def total(objective: Objective, batch: TrainBatch) -> torch.Tensor:
    encoded = objective(batch)
    local = [loss for name, loss in encoded.items() if name.startswith("local/")]
    return torch.stack([*objective.joint(encoded).values(), *local]).sum()


PLAIN = replace(TOWERS, concept_head=False)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"contrastive_weight": 0.0},
        {"model": replace(TOWERS, fusion="none")},
        {"model": PLAIN},
        {"model": PLAIN, "loss": "siglip"},
        {"model": PLAIN, "matryoshka": (4, 8)},
        {"match_weight": 1.0, "class_weight": 1.0},
        {"match_weight": 1.0},
        {"model": PLAIN, "contrastive_weight": 0.0, "class_weight": 1.0},
        {"model": replace(PLAIN, fusion="concatenation"), "match_weight": 1.0},
        {"model": replace(PLAIN, fusion="product"), "match_weight": 1.0, "class_weight": 0.5},
    ],
    ids=lambda settings: " ".join(settings) or "defaults",
)
def test_what_is_not_frozen_gets_a_gradient(batcher: Batcher, settings: dict[str, Any]) -> None:
    objective = objective_of(batcher, **settings)
    freeze_idle_(objective)
    for linear in (module for module in objective.modules() if isinstance(module, torch.nn.Linear)):
        torch.nn.init.normal_(linear.weight, std=0.1)  # branches that start at zero would hide what is behind them
    total(objective, labelled(batcher)).backward()  # type: ignore[no-untyped-call]
    without = [
        name for name, parameter in objective.named_parameters() if parameter.requires_grad and parameter.grad is None
    ]
    assert without == []
    assert any(parameter.requires_grad for parameter in objective.parameters())


def test_weights_multiply_their_losses(batcher: Batcher) -> None:
    torch.manual_seed(0)
    one, two = (objective_of(batcher, class_weight=weight, contrastive_weight=weight) for weight in (1.0, 2.0))
    batch = labelled(batcher)
    first, second = one.eval()(batch), two.eval()(batch)
    torch.testing.assert_close(second["local/class"], 2 * first["local/class"])
    torch.testing.assert_close(two.joint(second)["contrastive"], 2 * one.joint(first)["contrastive"])
    torch.testing.assert_close(second["local/image"], first["local/image"])


def test_a_batch_without_texts_trains_the_pictures(batcher: Batcher) -> None:
    objective = objective_of(batcher, match_weight=1.0)
    batch = replace(labelled(batcher), chunks=())
    encoded = objective(batch)
    assert "local/match" not in encoded
    assert encoded["local/text"].item() == 0
    assert torch.isfinite(total(objective, batch))


# After the towers


def test_sharpening_finds_at_least_as_much_as_before(tmp_path: Path) -> None:
    trained = tiny_train(tmp_path / "run", tiny_config(steps=30, fusion_steps=0, eval_every=30))
    checkpoint = load_checkpoint(trained)
    encoder = LiveEncoder(checkpoint.model, checkpoint.tokenizer, checkpoint.preprocess)
    config, model = tiny_config(), encoder.model
    data = tiny_evalset().subset(max_queries_per_language=config.eval_texts_per_language, seed=config.seed)
    model.config = replace(model.config, image_sharpness=1.0, text_sharpness=1.0)
    before = evaluate(encoder, data).macro()
    found = sharpen_(encoder, data)
    after = evaluate(encoder, data).macro()
    assert after.mrr >= before.mrr
    assert (found["mrr"], found["recall_at_1"], found["recall_at_10"]) == pytest.approx(
        (after.mrr, after.recall_at_1, after.recall_at_10)
    )
    assert (model.config.image_sharpness, model.config.text_sharpness) == (
        found["image_sharpness"],
        found["text_sharpness"],
    )
    assert found["image_sharpness"] in GRID
    assert trained.manifest.summary["sharpened"] == found


def test_a_sharpness_multiplies_the_logits_of_its_own_side(batcher: Batcher) -> None:
    model = concept_model(batcher).eval()
    pixels, chunk = labelled(batcher).pixels, labelled(batcher).chunks[0]
    plain, text = model.encode_image(pixels)[0], model.encode_text(chunk.ids, chunk.mask)[0]
    model.config = replace(model.config, image_sharpness=0.5)
    logits = model.concept_logits(model.image_features(pixels)[0])
    torch.testing.assert_close(model.encode_image(pixels)[0], F.normalize((logits / 2).softmax(-1), dim=-1))
    assert not torch.allclose(model.encode_image(pixels)[0], plain)
    assert torch.equal(model.encode_text(chunk.ids, chunk.mask)[0], text)


@pytest.mark.parametrize("factor", GRID)
def test_a_mixture_is_sharpened_as_the_model_would_have_it(factor: float, batcher: Batcher) -> None:
    model, pixels = concept_model(batcher).eval(), labelled(batcher).pixels
    plain = model.encode_image(pixels)[0].detach().numpy()
    model.config = replace(model.config, image_sharpness=factor)
    np.testing.assert_allclose(sharpened(plain, factor), model.encode_image(pixels)[0].detach().numpy(), atol=1e-6)


def test_without_concepts_there_is_nothing_to_sharpen(batcher: Batcher) -> None:
    model = concept_model(replace(batcher, config=tiny_config(model=PLAIN))).eval()
    assert sharpen_(LiveEncoder(model, batcher.tokenizer, Preprocess(size=48)), tiny_evalset()) == {}


# Figures


def test_average_precision_has_the_numbers_of_its_definition() -> None:
    scores = np.array([0.9, 0.8, 0.7, 0.6], np.float32)
    relevant = np.array([True, False, True, False])
    assert average_precision(scores, relevant) == pytest.approx((1 / 1 + 2 / 3) / 2)
    assert average_precision(scores, np.array([True, True, False, False])) == 1
    assert average_precision(scores[::-1].copy(), relevant) == pytest.approx((1 / 2 + 2 / 4) / 2)


def test_records_without_a_class_count_for_nothing() -> None:
    logits = np.eye(3, dtype=np.float32)
    assert class_figures(logits, [(0,), (), (1,)], "single") == {"class_accuracy": 0.5}
    assert class_figures(logits, [(), (), ()], "single") == {}
    assert class_figures(logits, [(0,), (1,), (2,)], "multi") == {"class_map": 1.0}


def test_an_answer_scores_what_people_gave_it() -> None:
    logits = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]], np.float32)
    scores = [{"yes": 1.0}, {"no": 0.6, "yes": 0.3}, {"perhaps": 1.0}]
    assert answer_figures(logits, ("yes", "no"), scores)["vqa_accuracy"] == pytest.approx((1.0 + 0.6 + 0.0) / 3)


# Pictures


def test_shrinking_takes_a_third_off_and_keeps_a_colour() -> None:
    pixels = torch.full((2, 48, 48, 3), 200, dtype=torch.uint8)
    pixels[1] = 10
    small = shrink(pixels)
    assert small.shape == (2, 32, 32, 3)
    assert small.dtype == torch.uint8
    assert (small[0] == 200).all() and (small[1] == 10).all()


def test_styles_of_equal_items_stay_and_of_others_mix() -> None:
    torch.manual_seed(0)
    item = torch.randn(1, 4, 6, 6)
    torch.testing.assert_close(
        mix_styles(item.expand(5, -1, -1, -1), 1.0), item.expand(5, -1, -1, -1), atol=1e-4, rtol=0
    )
    others = torch.randn(5, 4, 6, 6) * torch.arange(1, 6)[:, None, None, None]
    torch.testing.assert_close(mix_styles(others, 0.0), others, atol=1e-3, rtol=0)
    assert not torch.allclose(mix_styles(others, 1.0), others, atol=0.1)


def test_styles_mix_in_training_only(batcher: Batcher) -> None:
    model = concept_model(batcher)
    pixels = labelled(batcher).pixels
    plain = model.eval().image(pixels)[0]
    with style_mixing(model.image, 1.0):
        assert torch.equal(model.image(pixels)[0], plain)
        model.train()
        before = torch.get_rng_state()
        first = model.image(pixels)[0]
        torch.set_rng_state(before)
        assert torch.equal(model.image(pixels)[0], first)
    torch.set_rng_state(before)
    assert not torch.equal(model.image(pixels)[0], first)
