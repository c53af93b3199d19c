"""Parts of imported encoders as operations that every runtime computes alike, and fast.

What an encoder computes stays the same. Left as they are,

- `nn.MultiheadAttention`, which pools the pictures of SigLIP, is run by XNNPACK's slow neighbours, and its
  weights, which are no linear layers, would stay out of every quantization plan;
- GELU in its tanh form is computed by XNNPACK in its erf form, without a word, 4.7e-4 off;
- `scaled_dot_product_attention` and four-dimensional `matmul` leave copies and comparisons outside of XNNPACK;
- tables of positions, which are read from the start on, are looked up row by row, and rounded to int8 for no gain.

The first and the last are other modules from the moment an encoder is built, under the names of the original
weights where that is possible, and such weights load. The other two change shape while a program is traced; until
then, and in training, they run as in transformers.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dmedge.errors import require
from dmedge.model.attention import MASKED, Attention
from dmedge.model.quantized import replace_module_

ATTENTION = "dmedge"  # under which transformers knows `attend` and `attention_mask`


@dataclass(frozen=True, slots=True)
class HiddenKeys:
    """What a query does not see, for a kernel that makes of this what is added to the scores."""

    padding: Tensor | None  # bool [B, K], false where there is no token
    is_causal: bool  # whether it sees nothing that comes behind it


Kernel = Callable[[Tensor, Tensor, Tensor, Tensor | HiddenKeys | None, float], Tensor]
_kernel: ContextVar[Kernel | None] = ContextVar("kernel", default=None)

# The encoders whose positions are 0, 1, 2 and so on; those of RoBERTa's kin depend on the padding.
COUNTED_POSITIONS = (
    *("clip_vision_model", "siglip_vision_model", "clip_text_model", "siglip_text_model", "siglip2_text_model"),
    *("bert", "distilbert", "electra"),
)


@contextmanager
def attention_traced_as(kernel: Kernel) -> Iterator[None]:
    """Have imported encoders that are traced meanwhile call `kernel`, with the tensors that `attend` is given.

    Args:
        kernel: maps query [B, heads, Q, d], key and value [B, heads, K, d], what is hidden, and what scores are
            multiplied by to [B, Q, heads, d]. What is hidden is a bias where it is neither padding nor the future.
    """
    token = _kernel.set(kernel)
    try:
        yield
    finally:
        _kernel.reset(token)


class TanhGelu(nn.Module):
    """GELU by its tanh formula; traced, it is written out, since XNNPACK knows no other than erf.

    Source: Hendrycks & Gimpel 2016, arXiv:1606.08415.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Map [...] to [...]."""
        return written_out_gelu(x) if torch.compiler.is_exporting() else F.gelu(x, approximate="tanh")


def written_out_gelu(x: Tensor) -> Tensor:
    """`F.gelu(x, approximate="tanh")` in five operations: 0.5 (1 + tanh(u)) is the sigmoid of 2 u."""
    slope = 2 * math.sqrt(2 / math.pi)
    return x * torch.sigmoid(x * (x * x * (slope * 0.044715) + slope))


class PositionTable(nn.Module):
    """The rows of a table of positions from the first on, for an `nn.Embedding` that is asked for 0, 1, 2 and so on."""

    def __init__(self, table: nn.Embedding) -> None:
        super().__init__()
        self.weight = table.weight

    def forward(self, positions: Tensor) -> Tensor:
        """Rows [L, W] of int [..., L] positions, of which only the number is looked at."""
        return _without_gradient(self.weight[: positions.shape[-1]])


class FirstRow(nn.Module):
    """The first row of a table, for an `nn.Embedding` of segments where all tokens belong to the first."""

    def __init__(self, table: nn.Embedding) -> None:
        super().__init__()
        self.weight = table.weight

    def forward(self, segments: Tensor) -> Tensor:
        """One row [1, 1, W], whatever is asked for."""
        return _without_gradient(self.weight[:1][None])


def _without_gradient(view: Tensor) -> Tensor:
    """A view of a weight; it asks for a gradient even where none is computed, which counters of operations refuse."""
    return view.detach() if view.requires_grad and not torch.is_grad_enabled() else view


class PoolingHead(nn.Module):
    """SigLIP's pooling: a learned query attends to the patches.

    It takes the weights of the original, whose query, key and value are one matrix, as well as its own.
    """

    def __init__(self, original: Any) -> None:
        super().__init__()
        width, heads = original.attention.embed_dim, original.attention.num_heads
        self.probe = original.probe
        self.attention = Attention(width, heads)
        self.layernorm, self.mlp = original.layernorm, original.mlp
        self.register_load_state_dict_pre_hook(_split_pooling_)  # type: ignore[no-untyped-call]
        with torch.no_grad():
            self.load_state_dict(original.state_dict())

    def forward(self, patches: Tensor) -> Tensor:
        """Pool [B, P, W] patches to [B, W]."""
        query = _without_gradient(self.probe.expand(patches.shape[0], -1, -1))
        x = self.attention(query, patches)
        x = x + self.mlp(self.layernorm(x))
        return x[:, 0]  # type: ignore[no-any-return]


def _split_pooling_(_: nn.Module, state: dict[str, Tensor], prefix: str, *unused: object) -> None:
    """Name the weights of an `nn.MultiheadAttention` as those of an `Attention`."""
    old = f"{prefix}attention."
    for kind in ("weight", "bias"):
        if f"{old}in_proj_{kind}" in state:
            parts = state.pop(f"{old}in_proj_{kind}").chunk(3)
            state |= {f"{old}{name}.{kind}": part for name, part in zip(("query", "key", "value"), parts, strict=True)}
        if f"{old}out_proj.{kind}" in state:
            state[f"{old}out.{kind}"] = state.pop(f"{old}out_proj.{kind}")


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | HiddenKeys | None,
    *,
    sdpa: Callable[..., tuple[Tensor, Tensor | None]],
    scaling: float | None = None,
    **options: Any,
) -> tuple[Tensor, Tensor | None]:
    """Attention as transformers calls it; traced, in three dimensions, otherwise by its own function.

    Args:
        module: whose attention it is.
        query: [B, heads, Q, d].
        key: [B, heads, K, d].
        value: [B, heads, K, d].
        attention_mask: what `attention_mask` made.
        sdpa: transformers' own function.
        scaling: of the scores.
        options: for transformers' own.

    Returns:
        [B, Q, heads, d], and no attention map.
    """
    if not torch.compiler.is_exporting():
        return sdpa(module, query, key, value, attention_mask, scaling=scaling, **options)
    batch, heads, queries, width = query.shape
    scale = width**-0.5 if scaling is None else scaling
    if (kernel := _kernel.get()) is not None:
        return kernel(query, key, value, attention_mask, scale), None
    flat = [x.reshape(batch * heads, -1, width) for x in (query * scale, key, value)]
    scores = torch.bmm(flat[0], flat[1].transpose(1, 2))  # [B*h, Q, K]
    if attention_mask is not None:
        assert isinstance(attention_mask, Tensor)
        scores = _add_bias(scores, attention_mask, batch, heads)
    mixed = torch.bmm(torch.softmax(scores, dim=-1), flat[2])
    return mixed.view(batch, heads, queries, width).transpose(1, 2), None


def _add_bias(scores: Tensor, bias: Tensor, batch: int, heads: int) -> Tensor:
    """Add a [B, 1, 1 or Q, K] bias to [B*h, Q, K] scores; in a batch of one nothing changes shape."""
    if batch == 1:
        return scores + bias[:, 0]
    _, queries, keys = scores.shape
    return (scores.view(batch, heads, queries, keys) + bias).view(batch * heads, queries, keys)


def attention_mask(
    *,
    sdpa: Callable[..., Tensor | None],
    everything: Callable[..., Tensor],
    causal: Callable[..., Tensor],
    mask_function: Callable[..., Tensor],
    **options: Any,
) -> Tensor | HiddenKeys | None:
    """Mask as transformers asks for it; traced, a float bias [B or 1, 1, Q or 1, K], otherwise by its own function.

    Args:
        sdpa: transformers' own function.
        everything: the mask function that hides nothing.
        causal: the one that hides the future.
        mask_function: which key a query sees, by their numbers.
        options: lengths and padding, and more for transformers' own.
    """
    if not torch.compiler.is_exporting():
        return sdpa(mask_function=mask_function, **options)
    padding, bias = options.get("attention_mask"), None
    if _kernel.get() is not None and mask_function in (everything, causal):
        is_causal = mask_function is causal
        return HiddenKeys(padding, is_causal) if is_causal or padding is not None else None
    if padding is not None:
        bias = (1.0 - padding.to(torch.float32))[:, None, None, :] * MASKED
    if mask_function is not everything:
        rows = torch.arange(options["q_length"], device=options["device"])[None, None, :, None]
        columns = torch.arange(options["kv_length"], device=options["device"])[None, None, None, :]
        first = torch.zeros(1, 1, 1, 1, dtype=torch.int64, device=options["device"])
        is_seen = mask_function(first, first, rows, columns)  # e.g. causal, or a window
        hidden = (1.0 - is_seen.to(torch.float32)) * MASKED
        bias = hidden if bias is None else bias + hidden
    return bias


def rewrite_(encoder: Any) -> None:
    """Give a freshly built encoder of transformers the parts of this module, wherever it has such parts."""
    transformers, masks = require("transformers", "train"), require("transformers.masking_utils", "train")
    attention = require("transformers.modeling_utils", "train").ALL_ATTENTION_FUNCTIONS["sdpa"]
    functions = {"everything": masks.bidirectional_mask_function, "causal": masks.causal_mask_function}
    mask = partial(attention_mask, sdpa=masks.sdpa_mask, **functions)
    transformers.AttentionInterface.register(ATTENTION, partial(attend, sdpa=attention))
    transformers.AttentionMaskInterface.register(ATTENTION, mask)
    if encoder.config._attn_implementation == "sdpa" and encoder._can_set_attn_implementation():
        encoder.set_attn_implementation(ATTENTION)
    for name, module in list(encoder.named_modules()):
        part = _part(name, module, encoder.config.model_type)
        if part is not None:
            replace_module_(encoder, name, part)


def _part(name: str, module: nn.Module, model_type: str) -> nn.Module | None:
    """What takes the place of `module`, if anything does."""
    kind, place = type(module).__name__, name.rpartition(".")[2]
    if kind in ("GELUTanh", "NewGELUActivation", "FastGELUActivation"):  # one formula, in three roundings
        return TanhGelu()
    if kind == "SiglipMultiheadAttentionPoolingHead":
        return PoolingHead(module)
    if isinstance(module, nn.Embedding):
        if place in ("position_embedding", "position_embeddings") and model_type in COUNTED_POSITIONS:
            return PositionTable(module)
        if place == "token_type_embeddings":
            return FirstRow(module)
    return None
