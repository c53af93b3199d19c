"""Bundles of a tiny, seeded, random model, in both runtimes; written without dmedge's own exporters."""

import logging
import shutil
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim, export

from dmedge.artifact import Artifact, Program, TensorSpec, new_artifact
from dmedge.data.tokenizer import Tokenizer, train_tokenizer
from dmedge.data.transforms import Preprocess
from dmedge.model.checkpoint import Checkpoint, checkpoint_programs, load_checkpoint, save_checkpoint
from dmedge.model.config import ModelConfig
from dmedge.model.dual import DualEncoder
from dmedge.model.image import fold_batch_norm_

CONFIG = ModelConfig(
    vocab_size=320, classes=5, image_size=16, image_width=8, text_width=32, embed_dim=12, context_length=16, concepts=12
)

WORDS = ["red apple", "green pear", "grüner Baum", "rotes Haus", "red house", "ラーメン", "soupe de nouilles"]


class Method(nn.Module):
    """One method of a model as the `forward` of a module."""

    def __init__(self, model: DualEncoder, name: str) -> None:
        super().__init__()
        self.model = model
        self.name = name

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        outputs: tuple[Tensor, ...] = getattr(self.model, self.name)(*inputs)
        return outputs


def tiny_model() -> DualEncoder:
    """A random model in which every branch has a say: no weight is left at zero."""
    torch.manual_seed(0)
    model = DualEncoder(CONFIG)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    return model.eval().requires_grad_(False)


def example_inputs(name: str, length: int = 6) -> tuple[Tensor, ...]:
    pixels = torch.randint(0, 256, (1, CONFIG.image_size, CONFIG.image_size, 3), dtype=torch.uint8)
    ids = torch.randint(1, CONFIG.vocab_size, (1, length), dtype=torch.int32)
    mask = torch.ones(1, length, dtype=torch.int32)
    patches = torch.randn(1, (CONFIG.image_size // 8) ** 2, 4 * CONFIG.image_width)
    tokens = torch.randn(1, length, CONFIG.text_width)
    return {"encode_image": (pixels,), "encode_text": (ids, mask), "fuse": (patches, tokens, mask)}[name]


def dynamic_shapes(name: str) -> tuple[dict[int, Dim] | None, ...]:
    length = {1: Dim("length", min=2, max=CONFIG.context_length)}
    return {"encode_image": (None,), "encode_text": (length, length), "fuse": (None, length, length)}[name]


def bundle_programs(runtime: str, files: dict[str, str]) -> tuple[Program, ...]:
    """The programs of the checkpoint, at batch 1."""

    def fixed(spec: TensorSpec) -> TensorSpec:
        return TensorSpec(
            spec.name, tuple(1 if size == "batch" else size for size in spec.shape), spec.dtype, spec.bounds
        )

    return tuple(
        Program(
            program.name,
            files[program.name],
            "executorch" if runtime == "executorch" else "onnxruntime",
            tuple(map(fixed, program.inputs)),
            tuple(map(fixed, program.outputs)),
        )
        for program in checkpoint_programs(CONFIG)
    )


def write_onnx(model: DualEncoder, folder: Path) -> dict[str, str]:
    """One ONNX file per program."""
    files = {}
    for program in checkpoint_programs(CONFIG):
        name = program.name
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            exported = torch.onnx.export(
                Method(model, name),
                example_inputs(name),
                dynamo=True,
                dynamic_shapes=(dynamic_shapes(name),),
                input_names=[spec.name for spec in program.inputs],
                output_names=[spec.name for spec in program.outputs],
                verbose=False,
            )
        assert exported is not None
        graph = exported.model.graph
        for value in [value for node in graph for value in node.outputs if not value.is_graph_output()]:
            value.name = f"inner.{value.name}"  # aten.embedding would take the name of the output
        files[name] = f"programs/{name}.onnx"
        exported.save(folder / files[name], external_data=False)
    return files


def write_pte(model: DualEncoder, folder: Path) -> dict[str, str]:
    """All programs as methods of one `.pte`, lowered to XNNPACK."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import EdgeCompileConfig, to_edge_transform_and_lower

        names = [program.name for program in checkpoint_programs(CONFIG)]
        exported = {
            name: export(
                Method(model, name), example_inputs(name), dynamic_shapes=(dynamic_shapes(name),), strict=False
            )
            for name in names
        }
        lowered = to_edge_transform_and_lower(
            exported,
            partitioner={name: [XnnpackPartitioner()] for name in names},
            compile_config=EdgeCompileConfig(_check_ir_validity=False),
        ).to_executorch()
        logging.disable(logging.NOTSET)
    (folder / "programs/model.pte").write_bytes(lowered.buffer)
    return dict.fromkeys(names, "programs/model.pte")


def tiny_tokenizer(folder: Path) -> Tokenizer:
    """A vocabulary over the words of `WORDS`, with bytes for everything else."""
    path = folder / "tokenizer.model"
    train_tokenizer(WORDS * 4, path, CONFIG.vocab_size)
    return Tokenizer(path, CONFIG.context_length)


def write_checkpoint(out: Path) -> Artifact:
    """A checkpoint of `tiny_model`."""
    with new_artifact(out) as draft, TemporaryDirectory() as folder:
        labels = tuple(f"label {i}" for i in range(CONFIG.classes))
        tokenizer = tiny_tokenizer(Path(folder))
        save_checkpoint(draft.path, Checkpoint(tiny_model(), tokenizer, Preprocess(CONFIG.image_size), labels))
        return draft.finish(kind="checkpoint", stage="test", config={}, programs=checkpoint_programs(CONFIG), tools={})


def write_bundle(out: Path, checkpoint: Artifact, runtime: str) -> Artifact:
    """A bundle of a checkpoint of `tiny_model`, with what it takes to feed it."""
    with new_artifact(out) as draft:
        (draft.path / "programs").mkdir()
        write = write_pte if runtime == "executorch" else write_onnx
        model = load_checkpoint(checkpoint).model
        fold_batch_norm_(model)
        files = write(model, draft.path)
        for name in ("tokenizer.model", "preprocessor_config.json", "labels.json"):
            shutil.copyfile(checkpoint.file(name), draft.path / name)
        return draft.finish(
            kind="bundle",
            stage="test",
            config={},
            programs=bundle_programs(runtime, files),
            summary={"context_length": CONFIG.context_length},
            tools={},
        )


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return write_checkpoint(tmp_path_factory.mktemp("tiny") / "checkpoint")


@pytest.fixture(scope="session")
def onnx_bundle(tiny_checkpoint: Artifact) -> Artifact:
    return write_bundle(tiny_checkpoint.sibling("onnx"), tiny_checkpoint, "onnxruntime")


@pytest.fixture(scope="session")
def pte_bundle(tiny_checkpoint: Artifact) -> Artifact:
    return write_bundle(tiny_checkpoint.sibling("pte"), tiny_checkpoint, "executorch")
