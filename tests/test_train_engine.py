"""Laws of the engine: what more processes, parts, recomputation or compilation must not change, and what is refused."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dmedge.artifact import Artifact, load_artifact
from dmedge.data.content import TRAINED_ON
from dmedge.errors import ConfigError
from dmedge.model.checkpoint import load_checkpoint
from dmedge.training import train as stage
from dmedge.training.average import live_tensors
from dmedge.training.config import TrainConfig
from dmedge.training.engine import find_parts, make_accelerator, pick_precision
from dmedge.training.loop import _find_parts
from dmedge.training.optimizer import layer_scales
from dmedge.training.state import capture_random
from tests.tiny_ranks import (
    ALLOCATION,
    CASES,
    KILLED,
    STEPS,
    VIT,
    calm_config,
    case_config,
    curve_of,
    go_on,
    memory_for,
    open_run,
    rows_of,
    start,
    write_records,
)
from tests.tiny_training import SIZE, TOWERS, tiny_train

NO_EFFECT = (
    ".key.bias"  # softmax takes a sum that all keys share away: the gradient is rounding, which Adam makes steps of
)


def weights_of(artifact: Artifact) -> dict[str, Tensor]:
    return load_checkpoint(artifact).model.state_dict()


def assert_same_weights(mine: dict[str, Tensor], theirs: dict[str, Tensor], atol: float) -> None:
    assert mine.keys() == theirs.keys()
    for name in mine:
        if not name.endswith(NO_EFFECT):
            torch.testing.assert_close({name: mine[name]}, {name: theirs[name]}, atol=atol, rtol=0)


def assert_same_rows(mine: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> None:
    for name, rtol in (("loss", 1e-5), ("grad_norm", 1e-4)):
        torch.testing.assert_close(curve_of(mine, name), curve_of(theirs, name), atol=1e-5, rtol=rtol)


def check_same_run(tmp_path: Path, first: TrainConfig, second: TrainConfig, atol: float = 1e-5) -> None:
    """Both train alike, step by step and in what comes out."""
    found = [tiny_train(tmp_path / name, config) for name, config in (("first", first), ("second", second))]
    assert_same_rows(rows_of(tmp_path / "first.log"), rows_of(tmp_path / "second.log"))
    assert_same_weights(weights_of(found[0]), weights_of(found[1]), atol)


# Two processes


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which two processes have made all that they are asked for."""
    folder = tmp_path_factory.mktemp("ranks")
    write_records(folder)
    killed = start("kill", folder)
    assert "Signal 9 (SIGKILL)" in killed.stderr, killed.stderr
    assert [path.name for path in (folder / "killed.steps").glob("step-*.pt")] == ["step-00000002.pt"]
    assert not (folder / "killed").exists()
    trained = start("train", folder)
    assert trained.returncode == 0, trained.stderr
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_two_processes_train_as_one_with_the_same_global_batch(ranks: Path, tmp_path: Path, name: str) -> None:
    alone = tiny_train(tmp_path / "alone", replace(case_config(name, ranks), sharding="none"))
    assert_same_rows(rows_of(ranks / f"{name}.log"), rows_of(tmp_path / "alone.log"))
    together = load_artifact(ranks / name, kind="checkpoint")
    assert_same_weights(weights_of(together), weights_of(alone), 1e-5)
    assert together.manifest.summary["steps"] == STEPS
    assert together.manifest.files.get(TRAINED_ON) == alone.manifest.files.get(TRAINED_ON)
    assert (TRAINED_ON in alone.manifest.files) == (name == "joint")  # the one case of records


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_several_processes_write_one_checkpoint_and_log_every_step_once(ranks: Path, name: str) -> None:
    load_artifact(ranks / name, kind="checkpoint")
    assert [path.name for path in ranks.glob(f"{name}.*")] == [f"{name}.log"]
    assert [row["step"] for row in rows_of(ranks / f"{name}.log")] == list(range(1, STEPS + 1))
    assert json.loads((ranks / f"{name}.log" / "summary.json").read_text())["ranks"] == 2


@pytest.mark.slow
def test_processes_that_were_killed_continue_to_the_very_same_checkpoint(ranks: Path) -> None:
    resumed, whole = (load_artifact(ranks / name, kind="checkpoint") for name in ("killed", KILLED))
    assert resumed.digest == whole.digest
    assert [row["step"] for row in rows_of(ranks / "killed.log")] == list(range(1, STEPS + 1))
    assert torch.equal(curve_of(rows_of(ranks / "killed.log")), curve_of(rows_of(ranks / f"{KILLED}.log")))


@pytest.mark.slow
def test_a_batch_that_the_processes_cannot_share_is_refused(ranks: Path) -> None:
    for notes in (json.loads((ranks / f"notes-{rank}.json").read_text()) for rank in (0, 1)):
        assert "batch_size is 7, the sum over 2 processes; expected a multiple of their number" in notes["odd"]
        assert "batch_size is 2, the sum over 2 processes; expected a multiple of their number, 2 or" in notes["few"]


@pytest.mark.slow
def test_processes_short_of_memory_agree_on_parts_and_train_as_one(ranks: Path, tmp_path: Path) -> None:
    alone = go_on(open_run(tmp_path, calm_config(steps=2, batch_size=8)))
    expected = torch.tensor([[row["loss"], row["grad_norm"]] for row in alone])
    for notes in (json.loads((ranks / f"notes-{rank}.json").read_text()) for rank in (0, 1)):
        assert len(notes["parts"]) == 2
        for found in notes["parts"].values():
            assert found["parts"] == 4
            if found["rows"]:  # the first process has the log
                torch.testing.assert_close(torch.tensor(found["rows"]), expected, atol=1e-5, rtol=1e-4)


# Memory


@pytest.mark.parametrize("loss", ["infonce", "siglip"])
def test_parts_train_as_the_whole_batch(tmp_path: Path, loss: str) -> None:
    config = calm_config(loss=loss)
    check_same_run(tmp_path, config, replace(config, grad_cache_parts=4))


def test_parts_train_a_convnet_with_style_mixing(tmp_path: Path) -> None:
    convnet = replace(TOWERS, fusion="none")
    tiny_train(tmp_path / "run", calm_config(model=convnet, style_mixing=0.5, grad_cache_parts=2))
    assert curve_of(rows_of(tmp_path / "run.log")).isfinite().all()


@pytest.mark.parametrize("image", ["vit", "convnet"])
def test_recomputing_changes_no_weight(tmp_path: Path, image: Any) -> None:
    config = calm_config(model=replace(VIT, image=image, text_layers=2))
    check_same_run(tmp_path, config, replace(config, gradient_checkpointing=True), atol=1e-6)


def test_recomputing_needs_a_transformer(tmp_path: Path) -> None:
    config = calm_config(model=replace(TOWERS, text="bag", fusion="none"), gradient_checkpointing=True)
    with pytest.raises(ConfigError, match="gradient_checkpointing works on transformers, and this model has none"):
        tiny_train(tmp_path / "run", config)


def attempt_with(enough: int, tried: list[int]) -> Callable[[int], None]:
    """Work that runs into torch's own allocator until it is cut into enough parts."""

    def attempt(parts: int) -> None:
        tried.append(parts)
        torch.empty(8 if parts >= enough else ALLOCATION, dtype=torch.uint8)

    return attempt


@pytest.mark.parametrize(("first", "enough", "tries"), [(1, 1, [1]), (1, 5, [1, 2, 4, 8]), (3, 7, [3, 6, 12])])
def test_parts_double_until_they_fit(first: int, enough: int, tries: list[int]) -> None:
    tried: list[int] = []
    assert find_parts(attempt_with(enough, tried), first, 12) == tries[-1]
    assert tried == tries


def test_a_picture_that_does_not_fit_is_an_error() -> None:
    tried: list[int] = []
    with pytest.raises(ConfigError, match="out of memory with 6 parts, one picture each; .*gradient_checkpointing"):
        find_parts(attempt_with(7, tried), 1, 6)
    assert tried == [1, 2, 4, 6]


def test_an_error_that_is_not_of_memory_is_not_taken_for_one() -> None:
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        find_parts(lambda parts: torch.ones(2, 3) @ torch.ones(2, 3), 1, 6)


@pytest.mark.parametrize("where", ["forward", "backward"])
def test_finding_parts_leaves_everything_as_it_was(tmp_path: Path, where: str) -> None:
    convnet = replace(TOWERS, fusion="none")  # its batch normalisation has statistics
    run = open_run(tmp_path, calm_config(model=convnet, find_batch_size=True))
    before = {name: tensor.clone() for name, tensor in live_tensors(run.model).items()}
    random = capture_random()
    with memory_for(run.model.image, 2, where) as tried:
        assert _find_parts(run) == 4
    assert tried[0] == 6 and max(tried[-8:]) == 2  # four parts are encoded twice
    assert all(torch.equal(tensor, before[name]) for name, tensor in live_tensors(run.model).items())
    assert all(parameter.grad is None for parameter in run.model.parameters())
    for mine, theirs in zip(capture_random(), random, strict=True):
        assert torch.equal(mine["torch"], theirs["torch"])
        assert torch.equal(mine["numpy"]["state"]["key"], theirs["numpy"]["state"]["key"])
        assert mine["python"] == theirs["python"]


def test_a_run_short_of_memory_trains_as_one_with_enough(tmp_path: Path) -> None:
    config = calm_config()
    expected = go_on(open_run(tmp_path / "enough", config))
    run = open_run(tmp_path / "short", replace(config, find_batch_size=True))
    with memory_for(run.model.image, 2, "forward"):
        assert_same_rows(go_on(run), expected)
    assert run.parts == 4


def test_sharding_needs_several_processes() -> None:
    with pytest.raises(ConfigError, match="sharding = 'fsdp' in one process; expected several; start with torchrun"):
        make_accelerator(calm_config(sharding="fsdp"))


def test_parts_are_not_found_for_sharded_weights() -> None:
    with pytest.raises(ValueError, match="find_batch_size with sharding = 'fsdp'.*; set find_batch_size = false"):
        calm_config(sharding="fsdp", find_batch_size=True)


# Speed


@pytest.mark.thorough  # g++ takes a minute and a half for the 52 kernels of two tiny towers
@pytest.mark.slow
def test_compiled_towers_train_as_plain_ones(tmp_path: Path) -> None:
    assert shutil.which("g++"), "inductor compiles with g++; apt-get install g++"
    config = calm_config(steps=2, model=replace(VIT, text="bag"))
    plain = tiny_train(tmp_path / "plain", config)
    compiled = tiny_train(tmp_path / "compiled", replace(config, compile=True))
    curves = [curve_of(rows_of(tmp_path / f"{name}.log")) for name in ("plain", "compiled")]
    torch.testing.assert_close(curves[0], curves[1], atol=1e-4, rtol=1e-5)
    assert_same_weights(weights_of(compiled), weights_of(plain), 1e-4)  # which loads by plain names


def test_bfloat16_on_the_cpu_comes_close_to_float32(tmp_path: Path) -> None:
    plain = tiny_train(tmp_path / "float32", calm_config(learning_rate=1e-4))
    rough = tiny_train(tmp_path / "bfloat16", calm_config(learning_rate=1e-4, precision="bfloat16"))
    curves = [curve_of(rows_of(tmp_path / f"{name}.log")) for name in ("float32", "bfloat16")]
    torch.testing.assert_close(curves[0], curves[1], atol=0, rtol=0.05)  # bfloat16 has 8 bits, and a scale is learned
    assert not torch.equal(curves[0], curves[1])
    assert {tensor.dtype for tensor in weights_of(rough).values()} == {torch.float32}
    assert (plain.manifest.summary["autocast"], rough.manifest.summary["autocast"]) == ("no", "bf16")


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU computes in float16")
def test_float16_without_a_gpu_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="precision is 'float16' without a GPU; expected 'auto', 'bfloat16' or"):
        pick_precision(calm_config(precision="float16"))
    with pytest.raises(ConfigError, match="precision is 'float16' without a GPU"):
        tiny_train(tmp_path / "run", calm_config(precision="float16"))


def test_the_first_steps_see_smaller_pictures(tmp_path: Path) -> None:
    run = open_run(tmp_path, calm_config(model=replace(TOWERS, fusion="none"), low_resolution_steps=2))
    sides: list[int] = []
    run.model.image.register_forward_pre_hook(lambda module, inputs: sides.append(inputs[0].shape[1]))
    go_on(run)
    assert sides == [SIZE * 2 // 3] * 2 + [SIZE] * (STEPS - 2)


# What moves, and for how long


@pytest.mark.parametrize("tower", ["image", "text"])
def test_what_is_frozen_stays_bit_identical(tmp_path: Path, tower: str) -> None:
    config = calm_config(model=replace(TOWERS, fusion="none"), freeze=(f"{tower}.*",))
    before = {name: tensor.clone() for name, tensor in live_tensors(open_run(tmp_path / "open", config).model).items()}
    after = weights_of(tiny_train(tmp_path / "run", config))
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved
    assert not {name for name in moved if name.startswith(f"{tower}.")}
    assert any(name.startswith("image." if tower == "text" else "text.") for name in moved)


def test_lower_layers_move_less(tmp_path: Path) -> None:
    still = {"warmup_steps": 0, "schedule": "constant", "weight_decay": 0.0, "clip_norm": 0.0}
    config = calm_config(model=replace(VIT, image_layers=3), steps=1, layer_decay=0.5, **still)
    run = open_run(tmp_path, config)
    before = {name: parameter.detach().clone() for name, parameter in run.model.named_parameters()}
    go_on(run)
    scales, seen = layer_scales(run.model, 0.5), set()
    for name, parameter in run.model.named_parameters():
        furthest = (parameter.detach() - before[name]).abs().max()
        if furthest > 0 and not name.endswith(NO_EFFECT):
            seen.add(scales[name])  # the first step of Adam is as long as the learning rate
            torch.testing.assert_close(furthest, torch.tensor(config.learning_rate * scales[name]), atol=0, rtol=1e-2)
    assert seen == {1.0, 0.5, 0.25, 0.125, 0.0625}


def test_an_early_stop_keeps_the_weights_of_the_best_step(tmp_path: Path) -> None:
    same = {"schedule": "constant", "eval_every": 1}
    stopped = tiny_train(tmp_path / "run", calm_config(steps=12, early_stop="loss", patience=1, **same))
    losses = curve_of(rows_of(tmp_path / "run.log"))
    best = int(losses.argmin()) + 1
    assert 1 < best == len(losses) - 1 < 11
    assert stopped.manifest.summary["steps"] == len(losses)
    assert json.loads((tmp_path / "run.log" / "summary.json").read_text())["best_step"] == best
    short = tiny_train(tmp_path / "short", calm_config(steps=best, **same))
    assert_same_weights(weights_of(stopped), weights_of(short), 0)


@pytest.mark.parametrize(("epochs", "steps"), [(0.1, 1), (0.5, 2), (1.3, 6)])
def test_epochs_give_steps(tmp_path: Path, epochs: float, steps: int) -> None:
    tiny_train(tmp_path / "run", calm_config(epochs=epochs, steps=100))  # 24 pictures in batches of 6
    rows = rows_of(tmp_path / "run.log")
    assert [row["step"] for row in rows] == list(range(1, steps + 1))
    assert rows[-1]["epoch"] == pytest.approx(steps * 6 / 24)


def test_a_run_that_must_continue_does_not_begin(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="run.steps: no run to continue; expected one that was stopped"):
        stage.train(calm_config(), tmp_path / "run", must_resume=True)
    assert not list(tmp_path.iterdir())
