"""Distillation: losses that vanish where student and teacher agree, teachers, and students made of their teacher."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args
from unittest import mock

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from dmedge.artifact import Artifact, load_artifact
from dmedge.cli.compress import STUDENTS as STUDENT_CHOICES
from dmedge.compress.config import CompressConfig, LearnConfig, StudentSize
from dmedge.compress.recipe import compress_artifact
from dmedge.compress.sensitivity import run_image, run_text
from dmedge.compress.student import STUDENTS, make_student, student_config
from dmedge.compress.teachers import load_teacher, pivot_table, reads_the_same, sentence_encoder
from dmedge.data.transforms import Preprocess
from dmedge.errors import ArtifactError, ConfigError
from dmedge.model.checkpoint import Checkpoint, load_checkpoint
from dmedge.model.config import ModelConfig
from dmedge.model.costs import count_costs
from dmedge.model.dual import DualEncoder
from dmedge.model.hf_import import image_tower, import_checkpoint, text_tower
from dmedge.model.hf_layers import layers_prefix
from dmedge.training import loop
from dmedge.training.batch import TextChunk, TrainBatch
from dmedge.training.distill import (
    Distillation,
    ModelTeacher,
    TableTeacher,
    View,
    feature_loss,
    logit_loss,
    relation_loss,
    view_of,
)
from dmedge.training.objective import Objective
from dmedge.training.train import train
from tests.tiny_bundles import tiny_checkpoint as tiny_checkpoint
from tests.tiny_bundles import tiny_model
from tests.tiny_hf import BODY, IMAGES, TEXT_KINDS, write_clip, write_image, write_text
from tests.tiny_training import tiny_config, tiny_data, tiny_train, tiny_world

LEARN = LearnConfig(steps=4, fusion_steps=2, batch_size=6, texts_per_image=2)


def unit(*shape: int, seed: int = 0) -> Tensor:
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def batch() -> TrainBatch:
    ids = torch.arange(1, 25, dtype=torch.int32).view(6, 4)
    pixels = torch.randint(0, 256, (4, 16, 16, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return TrainBatch(
        pixels, torch.arange(4), (TextChunk(ids, torch.ones_like(ids), torch.tensor([0, 1, 2, 3, 0, 1])),)
    )


def test_agreement_costs_nothing_and_nothing_else_costs_less() -> None:
    image, text, logits = unit(5, 8), unit(7, 8, seed=1), torch.randn(5, 9)
    assert feature_loss(image, image) == pytest.approx(0, abs=1e-6)
    assert relation_loss(image, image, text, text) == pytest.approx(0, abs=1e-6)
    assert logit_loss(logits, logits + 3) == pytest.approx(0, abs=1e-6)  # a softmax knows no offset
    other = unit(5, 8, seed=2)
    assert feature_loss(other, image) > 0
    assert relation_loss(other, image, text, text) > 0
    assert logit_loss(torch.randn(5, 9), logits) > 0


def test_relations_do_not_see_a_rotation_nor_the_width() -> None:
    """Similarities are what is compared, so a teacher may be turned, and have more numbers."""
    image, text = unit(5, 8), unit(7, 8, seed=1)
    turn = torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(3))).Q
    wide = torch.cat([turn, torch.zeros(8, 4)], dim=1)
    assert relation_loss(image, image @ wide, text, text @ wide) == pytest.approx(0, abs=1e-5)


def test_logit_loss_is_the_divergence_of_two_coins() -> None:
    """KL((1/2, 1/2) || (1/4, 3/4)) = log(2) - log(3) / 2."""
    student = torch.tensor([[0.25, 0.75]]).log()
    expected = np.log(2) - np.log(3) / 2
    assert logit_loss(student, torch.zeros(1, 2)) == pytest.approx(expected, abs=1e-6)


def test_a_teacher_says_what_its_model_says_and_a_copy_of_it_has_nothing_to_learn() -> None:
    model, whole = tiny_model(), batch()
    view = ModelTeacher(model)(whole)
    torch.testing.assert_close(view.image, model.encode_image(whole.pixels)[0])
    chunk = whole.chunks[0]
    torch.testing.assert_close(view.text, model.encode_text(chunk.ids, chunk.mask)[0])
    losses = Distillation(ModelTeacher(model)).losses(whole, view)
    assert losses.keys() == {"feature", "relation", "logits"}
    assert all(abs(float(loss)) < 1e-5 for loss in losses.values())


def test_weights_of_0_ask_nothing_and_the_task_is_weighted_too() -> None:
    model, whole = tiny_model(), batch()
    config = tiny_config()
    plain = Objective(model, config)(whole)
    taught = Objective(model, config, Distillation(ModelTeacher(model), 0, 0, 0, task_weight=0.5))(whole)
    assert taught.keys() == plain.keys()
    for name in ("local/image", "local/text"):
        torch.testing.assert_close(taught[name], 0.5 * plain[name])


def test_the_teacher_is_no_part_of_what_trains() -> None:
    objective = Objective(tiny_model(), tiny_config(), Distillation(ModelTeacher(tiny_model())))
    assert len(list(objective.parameters())) == len(list(tiny_model().parameters()))
    assert all(name.startswith("model.") for name in objective.state_dict())


def test_a_table_teaches_only_texts_whose_key_it_knows() -> None:
    table = torch.zeros(4, 12)
    table[[0, 2]] = unit(2, 12)
    teacher = TableTeacher(table)
    view = teacher(batch())
    assert view.has_text is not None
    assert view.has_text.tolist() == [True, False, True, False, True, False]
    student = View(image=unit(4, 12), text=unit(6, 12, seed=5).requires_grad_())
    losses = Distillation(teacher, relation_weight=0).losses(batch(), student)
    assert losses.keys() == {"feature"}
    assert student.text is not None
    (gradient,) = torch.autograd.grad(losses["feature"], student.text)
    assert (gradient.abs().sum(1) > 0).tolist() == view.has_text.tolist()


def test_a_table_of_another_width_teaches_by_relations_alone() -> None:
    student = view_of(tiny_model(), *features(tiny_model(), batch()))
    losses = Distillation(TableTeacher(unit(4, 512))).losses(batch(), student)
    assert losses.keys() == {"relation"}


def features(model: DualEncoder, batch: TrainBatch) -> tuple[Tensor, Tensor]:
    chunk = batch.chunks[0]
    return model.image_features(batch.pixels)[0], model.text_features(chunk.ids, chunk.mask)[0]


def test_distillation_pulls_the_student_towards_its_teacher() -> None:
    torch.manual_seed(1)
    teacher, student = tiny_model(), DualEncoder(tiny_model().config)
    objective = Objective(
        student, tiny_config(contrastive_weight=0.0), Distillation(ModelTeacher(teacher), task_weight=0)
    )
    optimizer = torch.optim.Adam(student.parameters(), lr=1e-2)

    def distance() -> float:
        found = objective(batch())
        return sum(float(found[f"local/{name}"].detach()) for name in ("feature", "relation", "logits"))

    before = distance()
    for _ in range(30):
        optimizer.zero_grad()
        torch.stack([loss for name, loss in objective(batch()).items() if name.startswith("local/")]).sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert distance() < 0.3 * before


def test_pivot_table_holds_one_name_per_concept_and_zeros_where_it_is_held_out() -> None:
    data = tiny_data()
    cell = 2 * len(data.languages) + data.languages.index("bb")
    first_text = data.first_text.copy()
    first_text[cell + 1 :] -= first_text[cell + 1] - first_text[cell]  # as if "cloudovic" were held out
    asked: list[str] = []

    def embed(texts: Sequence[str]) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
        asked.extend(texts)
        return np.full((len(asked), 3), 2.0, np.float32)

    table = pivot_table(embed, replace(data, first_text=first_text), "bb")
    assert asked[:2] == ["appleovic", "boatovic"]
    assert len(asked) == data.concepts - 1
    torch.testing.assert_close(table.norm(dim=1), torch.tensor([1.0, 1, 0, *[1.0] * 9]))


@pytest.mark.parametrize("image", ["convnet", "vit"])
@pytest.mark.parametrize("text", ["transformer", "bag"])
@pytest.mark.parametrize("concepts", [0, 12], ids=["projection", "concepts"])
def test_students_are_smaller_and_run(image: str, text: str, concepts: int) -> None:
    torch.manual_seed(0)
    teacher = checkpoint_of(
        DualEncoder(
            ModelConfig(
                vocab_size=320,
                classes=3,
                image=image,  # type: ignore[arg-type]
                image_size=16,
                image_width=32,
                text=text,  # type: ignore[arg-type]
                text_width=64,
                text_layers=4,
                embed_dim=12,
                concepts=concepts,
            )
        )
    )
    before = count_costs(teacher.model)
    for size in STUDENTS:
        student = make_student(teacher, size)
        after = count_costs(student.model)
        assert after.macs < before.macs
        assert after.parameters < before.parameters
        assert student.model.config.embed_dim == 12
        again = make_student(teacher, size).model.state_dict()
        assert all(torch.equal(tensor, again[name]) for name, tensor in student.model.state_dict().items())


def checkpoint_of(model: DualEncoder) -> Checkpoint:
    return Checkpoint(model, None, Preprocess(16), ())  # type: ignore[arg-type]


def test_channels_that_do_nothing_are_not_inherited_and_the_rest_computes_the_same() -> None:
    """A teacher whose weights are those of a smaller model, scattered among zeros, has that model as its student."""
    config = ModelConfig(
        vocab_size=64, classes=0, image_size=16, image_width=16, text="bag", text_width=32, embed_dim=32
    )
    small = replace(config, image_width=8, text_width=16)
    torch.manual_seed(0)
    target, teacher = DualEncoder(small).eval(), DualEncoder(config).eval()
    state, wanted = teacher.state_dict(), target.state_dict()
    for name, tensor in state.items():
        tensor.zero_()
        index = tuple(
            slice(None) if size == part else torch.arange(part) * 2 + 1
            for size, part in zip(tensor.shape, wanted[name].shape, strict=True)
        )
        if tensor.dim() == 0:
            tensor.copy_(wanted[name])
        elif not name.startswith("fusion."):
            grid = np.ix_(
                *[
                    np.arange(size)[part] if isinstance(part, slice) else part.numpy()
                    for part, size in zip(index, tensor.shape, strict=True)
                ]
            )
            tensor[grid] = wanted[name]
    found = make_student(checkpoint_of(teacher), "tiny").model
    assert found.config == small
    for name, tensor in found.state_dict().items():
        if not name.startswith("fusion."):
            assert torch.equal(tensor, wanted[name]), name


def test_kept_blocks_are_spread_evenly_and_the_last_is_among_them() -> None:
    torch.manual_seed(0)
    config = ModelConfig(
        vocab_size=320, classes=0, text_width=24, text_layers=6, text_heads=3, fusion="none", image_size=16
    )
    teacher = DualEncoder(config)
    with torch.no_grad():
        for number, block in enumerate(teacher.text.blocks):  # type: ignore[arg-type]
            block.attention_norm.bias.fill_(number)
    student = make_student(checkpoint_of(teacher), "small").model
    marks = [float(block.attention_norm.bias[0].detach()) for block in student.text.blocks]  # type: ignore[union-attr]
    assert marks == [1.0, 3.0, 5.0]


def test_of_two_blocks_both_are_kept() -> None:
    config = ModelConfig(vocab_size=320, classes=0, text_width=32, text_layers=2, fusion="none", image_size=16)
    student = make_student(checkpoint_of(DualEncoder(config)), "tiny").model
    assert (student.config.text_layers, student.config.text_width) == (2, 16)


def test_no_student_of_a_pruned_model_nor_without_a_teacher() -> None:
    with pytest.raises(ConfigError, match="expected one that was not; prune the student instead"):
        student_config(replace(tiny_model().config, inner_widths={"image.blocks.0": 4}), STUDENTS["small"])
    with pytest.raises(ValueError, match="a student without a teacher; expected one"):
        CompressConfig(student="small")


def test_a_teacher_with_other_tokens_teaches_by_texts_and_needs_translations(
    tiny_checkpoint: Artifact, tmp_path: Path
) -> None:
    student = load_checkpoint(tiny_checkpoint)
    other = import_checkpoint(str(write_clip(tmp_path / "hf")), tmp_path / "clip")
    assert not reads_the_same(load_checkpoint(other), student)
    teacher, digest = load_teacher(str(other.root), student, "emoji", "de")
    assert digest == other.digest
    assert isinstance(teacher, TableTeacher)
    known = teacher.table.norm(dim=1) > 0
    assert 0.8 < known.float().mean() < 1  # the German names that are not held out
    with pytest.raises(ConfigError, match="captions have no translations to go by; expected data = 'emoji'"):
        load_teacher(str(other.root), student, str(tmp_path), "de")
    with pytest.raises(ConfigError, match="pivot_language is 'xx'; expected one of"):
        load_teacher(str(other.root), student, "emoji", "xx")


def test_the_stage_makes_a_student_prunes_and_quantizes_it(tmp_path: Path) -> None:
    parent = tiny_train(tmp_path / "run")
    config = CompressConfig(
        distill=str(parent.root),
        student="small",
        prune=0.3,
        int8=True,
        learn=LEARN,
        ledger_texts=0,
        calibration_items=8,
    )
    with tiny_world():
        made = compress_artifact(parent, config, tmp_path / "small")
    assert made.manifest.parents == {"parent": parent.digest, "teacher": parent.digest}
    lines = made.manifest.summary["ledger"]
    assert [line["step"] for line in lines] == ["start", "distil small", "prune 0.3", "recover", "int8"]  # type: ignore[attr-defined]
    sizes = [line["weight_bytes"] for line in lines]  # type: ignore[attr-defined]
    assert sizes == sorted(sizes, reverse=True)
    assert load_artifact(made.root).digest == made.digest
    assert load_checkpoint(made).model.config.text_width < load_checkpoint(parent).model.config.text_width


def test_a_student_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    """Stopped between two states, and started again, it becomes what it would have become."""
    parent = tiny_train(tmp_path / "run")
    config = CompressConfig(distill=str(parent.root), learn=replace(LEARN, steps=6), ledger_texts=0)
    step, calls = loop.train_step, []

    def stop_at_5(*arguments: Any) -> dict[str, float]:
        calls.append(arguments)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return step(*arguments)

    with tiny_world():
        whole = compress_artifact(parent, config, tmp_path / "whole")
        with mock.patch.object(loop, "train_step", stop_at_5):
            with pytest.raises(KeyboardInterrupt):
                compress_artifact(parent, config, tmp_path / "stopped")
            assert not (tmp_path / "stopped").exists()
            again = compress_artifact(parent, config, tmp_path / "stopped")
    assert len(calls) == 4 + 1 + 2  # not the four steps before it was stopped
    assert again.manifest.files == whole.manifest.files


def test_states_of_another_teacher_are_refused(tmp_path: Path) -> None:
    parent = tiny_train(tmp_path / "run")
    config = CompressConfig(distill=str(parent.root), learn=LEARN, ledger_texts=0)
    other = replace(config, learn=replace(LEARN, relation_weight=9.0))
    step = mock.Mock(side_effect=KeyboardInterrupt)
    with tiny_world():
        with mock.patch.object(loop, "train_step", step), pytest.raises(KeyboardInterrupt):
            compress_artifact(parent, config, tmp_path / "out")
        with pytest.raises(ConfigError, match=r"out.steps/distil: belongs to a run with other settings"):
            compress_artifact(parent, other, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["out.log", "out.steps"])
def test_a_file_where_a_folder_of_the_run_goes_is_refused_at_once(
    name: str, tiny_checkpoint: Artifact, tmp_path: Path
) -> None:
    """A log that a shell wrote beside the result, say."""
    (tmp_path / name).write_text("mine")
    with pytest.raises(ArtifactError, match=rf"{name}: is a file; expected a folder for the run, or nothing"):
        compress_artifact(tiny_checkpoint, CompressConfig(prune=0.5), tmp_path / "out")
    with pytest.raises(ArtifactError, match=rf"{name}: is a file"):
        train(tiny_config(), tmp_path / "out")
    assert (tmp_path / name).read_text() == "mine"


def test_the_command_offers_every_size_of_student() -> None:
    assert STUDENT_CHOICES == tuple(STUDENTS) == tuple(size for size in get_args(StudentSize) if size)


@pytest.mark.slow
def test_the_sentence_encoder_finds_translations() -> None:
    embed = sentence_encoder()
    english, german = (embed(texts) for texts in (["fire", "bread", "cat face"], ["Feuer", "Brot", "Katzengesicht"]))
    assert english.shape == (3, 512)
    assert (english @ german.T).argmax(1).tolist() == [0, 1, 2]


@pytest.mark.parametrize("kind", [*(kind for kind in IMAGES if kind != "mobilevit"), *TEXT_KINDS])
def test_students_of_imported_towers_keep_every_other_layer(kind: str, tmp_path: Path) -> None:
    """What is kept is the teacher's own, and the last layer is among it."""
    side: Any = "image" if kind in IMAGES else "text"
    with mock.patch.dict(BODY, num_hidden_layers=4):
        teacher = with_tower(side, kind, tmp_path / kind)
    student = make_student(teacher, "small")
    before, after = (getattr(one.model, side) for one in (teacher, student))
    prefix = layers_prefix(before, 4)
    assert layers_prefix(after, 2) == prefix
    old = before.state_dict()
    for name, tensor in after.state_dict().items():
        own = name
        if name.startswith(prefix):
            number, _, rest = name.removeprefix(prefix).partition(".")
            own = f"{prefix}{2 * int(number) + 1}.{rest}"
        assert torch.equal(tensor, old[own]), name
    with torch.inference_mode():
        rows = (run_image if side == "image" else run_text)(student.model)
    assert rows.isfinite().all()
    assert count_costs(student.model).macs < count_costs(teacher.model).macs


def test_a_convolutional_tower_that_is_imported_keeps_its_stages(tmp_path: Path) -> None:
    teacher = with_tower("image", "mobilevit", tmp_path / "mobilevit")
    student = make_student(teacher, "small")  # the other tower is smaller
    assert student.model.config.image_hf == teacher.model.config.image_hf


def with_tower(side: str, kind: str, folder: Path) -> Checkpoint:
    """An imported tower beside one of dmedge's own, drawn at random."""
    torch.manual_seed(0)
    config = ModelConfig(vocab_size=320, classes=0, image_size=16, text="bag", text_width=32, fusion="none")
    if side == "image":
        tower = image_tower(write_image(kind, folder))
        assert tower.preprocess is not None
        size = tower.preprocess.size
        config = replace(config, image="hf", image_width=tower.width, image_size=size, image_hf=tower.hf)
    else:
        tower = text_tower(write_text(kind, folder))
        assert tower.tokenizer is not None
        length = tower.tokenizer.context_length
        config = replace(
            config,
            text="hf",
            vocab_size=tower.vocab_size,
            text_width=tower.width,
            context_length=length,
            text_hf=tower.hf,
        )
    model = DualEncoder(config).eval()
    getattr(model, side).load_state_dict(tower.state_dict)
    return checkpoint_of(model)
