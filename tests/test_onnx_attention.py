"""Attention as one operation of onnxruntime's computes what torch computes, whatever a plan or a tower asks for."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import SiglipVisionConfig, SiglipVisionModel

from dmedge.compress.quantize import quantize_
from dmedge.export.engines import ENGINES
from dmedge.export.onnx import check_integers, export_onnx, export_onnx_for_web
from dmedge.export.onnx_attention import OnnxPoolingHead
from dmedge.export.onnx_ops import onnx_model
from dmedge.export.programs import bundle_programs
from dmedge.manifest import Program
from dmedge.model.checkpoint import checkpoint_programs, load_checkpoint
from dmedge.model.config import ModelConfig
from dmedge.model.dual import DualEncoder
from dmedge.model.hf_import import import_checkpoint
from dmedge.model.hf_rewrite import rewrite_
from dmedge.model.image import fold_batch_norm_
from dmedge.model.quantized import Scheme
from tests.tiny_bundles import CONFIG, tiny_model
from tests.tiny_hf import BODY, DUALS, make_random_

onnx: Any = pytest.importorskip("onnx")
onnxruntime: Any = pytest.importorskip("onnxruntime")

ATTENTION = "text.blocks.0.attention"
LINEARS = [f"{ATTENTION}.{name}" for name in ("query", "key", "value", "out")]
FLOAT_ERROR, INT8_COSINE = 1e-5, 0.999
VOCABULARY = 40  # ids that every model here knows

Feeds = dict[str, np.ndarray[Any, Any]]


def of(name: str, config: ModelConfig) -> Program:
    programs = bundle_programs(checkpoint_programs(config), ENGINES["onnxruntime"])
    return next(program for program in programs if program.name == name)


def texts(*lengths: int) -> Feeds:
    """Random texts of these lengths, filled up to the longest."""
    mask = (np.arange(max(lengths)) < np.array(lengths)[:, None]).astype(np.int32)
    return {"ids": np.random.default_rng(0).integers(1, VOCABULARY, mask.shape, np.int32), "mask": mask}


def pictures(size: int = CONFIG.image_size) -> Feeds:
    return {"pixels": np.random.default_rng(0).integers(0, 256, (2, size, size, 3), np.uint8)}


def embeddings(model: DualEncoder, path: Path, program: Program, feeds: Feeds) -> tuple[torch.Tensor, torch.Tensor]:
    """Of torch and of onnxruntime."""
    with torch.inference_mode():
        wanted = getattr(model, program.name)(*map(torch.from_numpy, feeds.values()))[0]
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return wanted, torch.from_numpy(session.run(["embedding"], feeds)[0])


def operations(path: Path) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load(path).graph.node)


@pytest.mark.parametrize(
    ("name", "changes", "expected"),
    [
        ("encode_text", {}, {"Attention": 1}),
        ("encode_text", {"inner_widths": {ATTENTION: 2}}, {"Attention": 1}),
        ("encode_text", {"positions": "rotary"}, {}),
        ("encode_image", {"image": "vit", "image_width": 32, "image_layers": 2}, {"Attention": 2}),
    ],
    ids=["text", "fewer heads", "rotary", "pictures"],
)
def test_float_attention_is_that_of_torch(
    name: str, changes: dict[str, Any], expected: dict[str, int], tmp_path: Path
) -> None:
    model = tiny_model(replace(CONFIG, **changes))
    program = of(name, model.config)
    fold_batch_norm_(model)
    export_onnx(model, (program,), tmp_path)
    path = tmp_path / program.file
    found = operations(path)
    assert {kind: found[kind] for kind in ("Attention", "MultiHeadAttention") if found[kind]} == expected
    means = name == "encode_text"  # over tokens; the others are those of the feature and of the mixture of concepts
    assert found["LpNormalization"] == 2 + means and not found["ReduceL2"] and not found["Clip"]
    for feeds in (texts(1), texts(2, 7, 16), texts(1, 3)) if name == "encode_text" else (pictures(),):
        wanted, got = embeddings(model, path, program, feeds)
        assert (wanted - got).abs().max() < FLOAT_ERROR


@pytest.mark.parametrize(
    ("kept", "expected"), [((), "QAttention"), ((LINEARS[1],), "MultiHeadAttention")], ids=["all", "but the keys"]
)
def test_int8_attention_is_that_of_torch(kept: tuple[str, ...], expected: str, tmp_path: Path) -> None:
    model = tiny_model()
    plan: dict[str, Scheme] = {name: "int8_dynamic" for name in LINEARS if name not in kept}
    quantize_(model, plan, {})
    program = of("encode_text", CONFIG)
    export_onnx(model, (program,), tmp_path)
    path = tmp_path / program.file
    assert operations(path)[expected] == 1
    check_integers(onnx_model(model), [path])
    for feeds in (texts(1), texts(7), texts(3, 9)):
        wanted, got = embeddings(model, path, program, feeds)
        assert (wanted * got).sum(1).min() > INT8_COSINE


def test_pooling_by_a_constant_query_is_that_of_every_patch() -> None:
    model = SiglipVisionModel(SiglipVisionConfig(**BODY, image_size=32, patch_size=8))
    make_random_(model)
    rewrite_(model)
    head, patches = model.head, torch.randn(3, 16, BODY["hidden_size"], generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(OnnxPoolingHead(head)(patches), head(patches), atol=1e-6, rtol=0)


def test_one_product_computes_what_three_compute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, program = tiny_model(), of("encode_text", CONFIG)
    quantize_(model, dict.fromkeys(LINEARS, "int8_dynamic"), {})
    found = {}
    for way in ("joined", "apart"):
        export_onnx(model, (program,), tmp_path / way)
        monkeypatch.setattr("dmedge.export.onnx.join_projections_", lambda _: None)
        found[way] = tmp_path / way / program.file
    rounded = {way: operations(path)["DynamicQuantizeLinear"] for way, path in found.items()}
    assert rounded == dict.fromkeys(found, 2)  # the sequence, and what goes out
    kinds = [operations(path)["MultiHeadAttention"] for path in found.values()]
    assert kinds == [0, 1]
    for feeds in (texts(1), texts(3, 9)):
        joined, apart = (embeddings(model, path, program, feeds)[1] for path in found.values())
        assert (joined - apart).abs().max() < 1e-6


@pytest.mark.parametrize("kind", DUALS)
def test_attention_of_imported_encoders_is_that_of_torch(kind: str, tmp_path: Path) -> None:
    """Causal or not, with padding or without, beside the pooling of SigLIP; no shape is changed and changed back."""
    model = load_checkpoint(import_checkpoint(DUALS[kind](tmp_path / "hf"), tmp_path / "imported")).model
    for name in ("encode_image", "encode_text"):
        program = of(name, model.config)
        export_onnx(model, (program,), tmp_path)
        path = tmp_path / program.file
        pools = name == "encode_image" and kind.startswith("siglip")
        found = operations(path)
        assert (found["Attention"], found["MultiHeadAttention"]) == (BODY["num_hidden_layers"], 0)
        assert found["Softmax"] == pools and not found["Identity"] and found["Reshape"] <= 3
        if name == "encode_text":  # the mask is used as it is, and so are the ids
            assert found.total() <= 50 and not {"Range", "LessOrEqual", "Where", "Unsqueeze"} & set(found)
        else:  # pixels are scaled by the weights of their patches, and the input of a gate by those before it
            assert not {"Conv", "Sub", "Div"} & set(found) and found["Mul"] == found["Sigmoid"]
        feeds = pictures(model.config.image_size) if name == "encode_image" else texts(1, 3, 7)
        wanted, got = embeddings(model, path, program, feeds)
        assert (wanted - got).abs().max() < FLOAT_ERROR


def test_float_programs_for_browsers_keep_to_what_webgpu_has(tmp_path: Path) -> None:
    program = of("encode_text", CONFIG)
    export_onnx_for_web(tiny_model(), (program,), tmp_path)
    nodes = onnx.load(tmp_path / program.file).graph.node
    assert not [node.op_type for node in nodes if node.domain or node.op_type == "LpNormalization"]
