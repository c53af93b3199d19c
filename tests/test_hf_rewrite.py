"""What is put into imported encoders computes what was there, in torch and as the graph that runtimes get."""

from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from torch.export import Dim
from torch.nn import functional as F

from dmedge.model.hf import IMAGE_FAMILIES, TEXT_FAMILIES, build_encoder
from dmedge.model.hf_import import plain_config
from dmedge.model.hf_rewrite import PoolingHead, PositionTable, TanhGelu, written_out_gelu
from tests.tiny_hf import make_random_

CLIP_B32: Mapping[str, Any] = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12}
ROBERTA: Mapping[str, Any] = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "max_position_embeddings": 514}
SHALLOW: Mapping[str, Any] = {"num_hidden_layers": 2, "vocab_size": 500}
LENGTH, LIMIT, END = 9, 64, 499

# The published shapes, but for the number of layers and of tokens.
REAL: Mapping[str, Callable[[], Any]] = {
    "clip-vit-b32": lambda: transformers.CLIPVisionConfig(
        **CLIP_B32, num_hidden_layers=2, patch_size=32, image_size=224, hidden_act="quick_gelu"
    ),
    "siglip-b16": lambda: transformers.SiglipVisionConfig(
        **CLIP_B32, num_hidden_layers=2, patch_size=16, image_size=224, hidden_act="gelu_pytorch_tanh"
    ),
    "clip-text": lambda: transformers.CLIPTextConfig(
        **SHALLOW, hidden_size=512, intermediate_size=2048, num_attention_heads=8, bos_token_id=498, eos_token_id=END
    ),
    "siglip-text": lambda: transformers.SiglipTextConfig(**SHALLOW, **CLIP_B32),
    "siglip2-text": lambda: transformers.Siglip2TextConfig(**SHALLOW, **CLIP_B32),
    "bert-base": lambda: transformers.BertConfig(**SHALLOW, hidden_act="gelu_new"),
    "xlm-roberta-base": lambda: transformers.XLMRobertaConfig(**SHALLOW, **ROBERTA),
}


def pair(kind: str) -> tuple[Any, Any]:
    """An encoder as transformers builds it, and as it is after import, with the same random weights."""
    config = REAL[kind]()
    is_image = "patch_size" in config.to_dict()
    families = IMAGE_FAMILIES if is_image else TEXT_FAMILIES
    original = make_random_(getattr(transformers, families[config.model_type].model)(config))
    imported: Any = build_encoder(families, config.model_type, plain_config(config), "pooler")
    imported.load_state_dict(original.state_dict())
    return original.requires_grad_(False), imported.eval().requires_grad_(False)


def inputs(kind: str, length: int = LENGTH, padding: int = 0) -> tuple[Tensor, ...]:
    if "patch_size" in REAL[kind]().to_dict():
        return (torch.rand(1, 3, 224, 224),)
    ids, mask = torch.randint(3, 490, (1, length)), torch.ones(1, length, dtype=torch.long)
    ids[0, length - 1 - padding :] = END
    mask[0, length - padding :] = 0
    return ids, mask


class Named(nn.Module):
    """An encoder by its outputs."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, first: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        given = {"pixel_values": first} if mask is None else {"input_ids": first, "attention_mask": mask}
        output = self.encoder(**given)
        return F.normalize(output.pooler_output, dim=-1), F.normalize(output.last_hidden_state, dim=-1)


@pytest.fixture(scope="module", params=REAL)
def encoders(request: pytest.FixtureRequest) -> Iterator[tuple[str, Any, Any]]:
    torch.manual_seed(0)
    yield request.param, *pair(request.param)


@torch.no_grad()
def test_a_rewritten_encoder_computes_what_the_original_computes(encoders: tuple[str, Any, Any]) -> None:
    kind, original, imported = encoders
    given = inputs(kind)
    for found, wanted in zip(Named(imported)(*given), Named(original)(*given), strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-6, rtol=0)


@torch.no_grad()
def test_its_graph_computes_the_same_at_any_length(encoders: tuple[str, Any, Any]) -> None:
    kind, original, imported = encoders
    given = inputs(kind)
    free = {1: Dim("length", min=2, max=LIMIT)}
    shapes = None if len(given) == 1 else (free, free)
    graph = torch.export.export(Named(imported), given, dynamic_shapes=shapes, strict=False)
    names = {str(node.target) for node in graph.graph.nodes}
    assert not [name for name in names if "scaled_dot_product" in name]
    assert any("aten.gelu" in name for name in names) == (kind == "xlm-roberta-base")  # alone in asking for erf
    cases = [given] if len(given) == 1 else [given, inputs(kind, LIMIT, 20), inputs(kind, 2)]
    for case in cases:
        seen = slice(None) if len(case) == 1 else case[1][0].bool()
        (pooled, parts), (wanted, wanted_parts) = graph.module()(*case), Named(original)(*case)
        torch.testing.assert_close(pooled, wanted, atol=1e-6, rtol=0)
        torch.testing.assert_close(parts[:, seen], wanted_parts[:, seen], atol=1e-6, rtol=0)


def test_gelu_is_written_out_exactly() -> None:
    x = torch.linspace(-12, 12, 100_001, dtype=torch.float64)
    torch.testing.assert_close(written_out_gelu(x), F.gelu(x, approximate="tanh"), atol=1e-14, rtol=1e-12)
    assert (F.gelu(x, approximate="tanh") - F.gelu(x)).abs().max() > 4e-4  # what silence would cost


def test_parts_are_where_they_belong() -> None:
    _, image = pair("siglip-b16")
    assert isinstance(image.head, PoolingHead)
    assert isinstance(image.embeddings.position_embedding, PositionTable)
    assert not any(isinstance(module, nn.MultiheadAttention) for module in image.modules())
    assert sum(isinstance(module, TanhGelu) for module in image.modules()) == 3  # of two layers and the head
    assert isinstance(pair("xlm-roberta-base")[1].embeddings.position_embeddings, nn.Embedding)  # they skip padding


def test_a_pooling_head_keeps_its_own_weights_too() -> None:
    _, image = pair("siglip-b16")
    head = deepcopy(image.head)
    assert {"attention.query.weight", "attention.out.bias"} <= head.state_dict().keys()
    for parameter in head.parameters():
        nn.init.zeros_(parameter)
    head.load_state_dict(image.head.state_dict())
    patches = torch.rand(2, 4, 768)
    assert torch.equal(head(patches), image.head(patches))
