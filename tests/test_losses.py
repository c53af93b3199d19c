from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from dmedge.training.distributed import gather_keys, gather_rows, gathered_contrastive_loss, siglip_ring_loss
from dmedge.training.losses import (
    Candidates,
    answer_loss,
    classification_loss,
    contrastive_loss,
    match_loss,
    matryoshka,
    siglip_loss,
)

SCALE, BIAS = torch.tensor(5.0), torch.tensor(-2.0)


def unit(rows: int, width: int = 6) -> Tensor:
    return F.normalize(torch.randn(rows, width), dim=-1).requires_grad_()


def test_unique_pairs_give_the_loss_of_clip() -> None:
    image, text, key = unit(5), unit(5), torch.arange(5) * 11
    logits = SCALE * image @ text.T
    clip = (F.cross_entropy(logits, torch.arange(5)) + F.cross_entropy(logits.T, torch.arange(5))) / 2
    torch.testing.assert_close(contrastive_loss(image, text, key, key, SCALE), clip)


def test_order_of_rows_means_nothing() -> None:
    image, text, key, text_key = unit(4), unit(6), torch.tensor([3, 1, 2, 3]), torch.tensor([1, 3, 3, 2, 2, 9])
    pictures, texts = torch.randperm(4), torch.randperm(6)
    shuffled = image[pictures], text[texts], key[pictures], text_key[texts]
    torch.testing.assert_close(contrastive_loss(*shuffled, SCALE), contrastive_loss(image, text, key, text_key, SCALE))
    torch.testing.assert_close(
        siglip_loss(*shuffled, SCALE, BIAS), siglip_loss(image, text, key, text_key, SCALE, BIAS)
    )


def test_constant_features_lose_the_log_of_the_odds() -> None:
    flat = torch.ones(8, 4) / 2  # unit norm: 4 * 0.5**2 == 1
    texts = flat.repeat(3, 1)
    key = torch.arange(8)
    # a text has 1 of 8 images, an image 3 of 24 texts
    torch.testing.assert_close(contrastive_loss(flat, texts, key, key.repeat(3), SCALE), torch.tensor(8.0).log())


def test_a_text_given_twice_changes_nothing() -> None:
    image, text, key = unit(5), unit(5), torch.arange(5)
    once = contrastive_loss(image, text, key, key, SCALE)
    twice = contrastive_loss(image, text.repeat(2, 1), key, key.repeat(2), SCALE)
    torch.testing.assert_close(twice, once)


def test_rows_without_a_positive_are_negatives_only() -> None:
    image, text, key, text_key = unit(4), unit(5), torch.tensor([0, 1, 2, 8]), torch.tensor([0, 1, 1, 2, 9])
    loss = contrastive_loss(image, text, key, text_key, SCALE)
    similarity = (SCALE * text @ image.T).exp()
    matches = text_key[:, None] == key
    per_text = -((similarity * matches).sum(1) / similarity.sum(1))[:4].log()
    per_image = -((similarity * matches).sum(0) / similarity.sum(0))[:3].log()
    torch.testing.assert_close(loss, (per_text.mean() + per_image.mean()) / 2)
    loss.backward()  # type: ignore[no-untyped-call]
    assert image.grad is not None and image.grad.isfinite().all() and image.grad[3].abs().sum() > 0


def test_no_pair_at_all_costs_nothing() -> None:
    image, text = unit(3), unit(2)
    loss = contrastive_loss(image, text, torch.arange(3), torch.tensor([7, 8]), SCALE)
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.item() == 0
    assert image.grad is not None and not image.grad.any()
    assert contrastive_loss(image, text[:0], torch.arange(3), torch.arange(0), SCALE).item() == 0


def test_mean_over_slices_with_all_candidates_is_the_whole_loss() -> None:
    image, text, key, text_key = unit(4), unit(7), torch.tensor([5, 6, 7, 8]), torch.tensor([5, 5, 6, 7, 7, 7, 1])
    everyone = Candidates(image, text, key, text_key, ranks=2)
    slices = [(slice(0, 1), slice(0, 5)), (slice(1, 4), slice(5, 7))]  # unequal, and parted from their partners
    losses = [contrastive_loss(image[i], text[t], key[i], text_key[t], SCALE, everyone) for i, t in slices]
    torch.testing.assert_close(torch.stack(losses).mean(), contrastive_loss(image, text, key, text_key, SCALE))


def test_siglip_is_the_sum_over_pairs_by_image() -> None:
    image, text, key, text_key = unit(3), unit(4), torch.tensor([4, 5, 6]), torch.tensor([4, 4, 6, 9])
    expected = torch.tensor(0.0)
    for i in range(3):
        for t in range(4):
            sign = 1 if key[i] == text_key[t] else -1
            expected = expected - F.logsigmoid(sign * (SCALE * image[i] @ text[t] + BIAS)) / 3
    torch.testing.assert_close(siglip_loss(image, text, key, text_key, SCALE, BIAS), expected)
    nothing = torch.tensor(0.0)
    torch.testing.assert_close(siglip_loss(image, text, key, text_key, nothing, nothing), 4 * torch.tensor(2.0).log())


def test_one_process_gathers_itself() -> None:
    image, text, key = unit(4), unit(4), torch.arange(4)
    assert gather_rows(image) is image and gather_keys(key) is key
    rows = image, text, key, key
    assert gathered_contrastive_loss(*rows, SCALE) == contrastive_loss(*rows, SCALE)
    assert siglip_ring_loss(*rows, SCALE, BIAS) == siglip_loss(*rows, SCALE, BIAS)


@pytest.mark.parametrize(
    "loss",
    [
        lambda x, y: contrastive_loss(x, y, torch.arange(4), torch.arange(4), SCALE),
        lambda x, y: siglip_loss(x, y, torch.arange(4), torch.arange(4), SCALE, BIAS),
        lambda x, y: classification_loss(x + y, torch.arange(4)),
        lambda x, y: classification_loss(x, y.sigmoid()),
        lambda x, y: answer_loss(x, y.sigmoid()),
        lambda x, y: match_loss(x[:, 0], y[:, 0] > 0),
    ],
    ids=["contrastive", "siglip", "classes", "labels", "answers", "match"],
)
def test_autocast_leaves_the_loss_in_float32(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    image, text = unit(4).detach(), unit(4).detach()
    plain = loss(image, text)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert loss(image, text) == plain  # not one bit less
        assert loss(image.bfloat16(), text.bfloat16()).dtype == torch.float32


def test_matryoshka_is_the_mean_over_renormalised_prefixes() -> None:
    image, text, key = unit(4), unit(4), torch.arange(4)
    loss = partial(contrastive_loss, image_key=key, text_key=key, scale=SCALE)
    torch.testing.assert_close(matryoshka(loss, image, text, (6,)), loss(image, text))
    short = loss(F.normalize(image[:, :2], dim=-1), F.normalize(text[:, :2], dim=-1))
    torch.testing.assert_close(matryoshka(loss, image, text, (2, 6)), (short + loss(image, text)) / 2)
    for dims in ((), (0, 6), (7,)):
        with pytest.raises(ValueError, match="expected lengths in 1..6, the width of the embedding; change dims"):
            matryoshka(loss, image, text, dims)


def test_classification_follows_the_kind_of_labels() -> None:
    flat = torch.zeros(5, 4)
    torch.testing.assert_close(classification_loss(flat, torch.arange(5) % 4), torch.tensor(4.0).log())
    torch.testing.assert_close(classification_loss(flat, torch.eye(5)[:, :4]), torch.tensor(2.0).log())
    sure = torch.full((5, 4), -20.0).scatter(1, (torch.arange(5) % 4)[:, None], 20.0)
    for labels in (torch.arange(5) % 4, F.one_hot(torch.arange(5) % 4, 4).float()):
        assert float(classification_loss(sure, labels)) < 1e-6
        assert float(classification_loss(sure, labels, label_smoothing=0.1)) > 0.5  # certainty costs
    with pytest.raises(ValueError, match=r"int64 labels \[5, 4\] for logits \[5, 4\]; expected integers \[B\]"):
        classification_loss(flat, torch.ones(5, 4, dtype=torch.int64))


def test_smoothed_labels_are_best_met_at_the_smoothed_odds() -> None:
    logits = torch.tensor([[0.95 / 0.05]]).log().requires_grad_()
    classification_loss(logits, torch.ones(1, 1), label_smoothing=0.1).backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None and abs(float(logits.grad)) < 1e-6


def test_answers_are_summed_and_questions_averaged() -> None:
    logits, scores = torch.randn(3, 5), torch.rand(3, 5)
    each = -(scores * logits.sigmoid().log() + (1 - scores) * (1 - logits.sigmoid()).log())
    torch.testing.assert_close(answer_loss(logits, scores), each.sum() / 3)
    with pytest.raises(ValueError, match=r"scores \[3, 4\] for logits \[3, 5\]"):
        answer_loss(logits, scores[:, :4])


def test_match_takes_truths_and_numbers() -> None:
    logits, is_match = torch.randn(6), torch.arange(6) % 2 == 0
    expected = -torch.where(is_match, logits, -logits).sigmoid().log().mean()
    torch.testing.assert_close(match_loss(logits, is_match), expected)
    torch.testing.assert_close(match_loss(logits, is_match.float()), expected)
    with pytest.raises(ValueError, match=r"is_match \[5\] for logits \[6\]"):
        match_loss(logits, is_match[:5])


def test_rows_without_their_keys_are_refused() -> None:
    rows = unit(4)
    with pytest.raises(ValueError, match=r"texts: embeddings \[4, 6\] with keys \[3\]; expected \[N, D\] with \[N\]"):
        contrastive_loss(rows, rows, torch.arange(4), torch.arange(3), SCALE)
    with pytest.raises(ValueError, match=r"images: embeddings \[4, 6\] with keys \[5\]"):
        siglip_loss(rows, rows, torch.arange(5), torch.arange(4), SCALE, BIAS)
