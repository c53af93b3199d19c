"""What is rewritten for XNNPACK computes the same, without the operations that it refuses."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dmedge.export.xnnpack_rules import suit_xnnpack_


class Pixels(nn.Module):
    """What a program does to a picture beside its convolutions."""

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Map uint8 [B, H, W, 3] to unit means of the channels, and to the colours."""
        x = pixels.permute(0, 3, 1, 2).to(torch.float32) / 127.5 - 1
        return F.normalize(x.mean((2, 3)), dim=-1), x


def called(program: torch.export.ExportedProgram) -> list[str]:
    return [str(node.target) for node in program.graph.nodes if node.op == "call_function"]


def test_the_rewritten_program_computes_the_same() -> None:
    pixels = torch.randint(0, 256, (1, 5, 7, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    program = torch.export.export(Pixels(), (pixels,))
    assert {"aten.linalg_vector_norm.default", "aten.expand_as.default"} <= set(called(program))
    suit_xnnpack_(program)
    found = called(program)
    assert not {"aten.linalg_vector_norm.default", "aten.expand_as.default"} & set(found)
    divided = next(node for node in program.graph.nodes if node.target is torch.ops.aten.div.Tensor).args[0]
    assert divided.target is torch.ops.aten.permute.default
    assert divided.args[0].target is torch.ops.aten.to.dtype
    mean = next(node for node in program.graph.nodes if node.target is torch.ops.aten.mean.dim)
    assert mean.meta["val"].shape == (1, 3, 1, 1)
    for want, got in zip(Pixels()(pixels), program.module()(pixels), strict=True):
        torch.testing.assert_close(got, want)


def test_a_vector_of_zeros_stays_one() -> None:
    class Unit(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.normalize(x, dim=-1)

    program = torch.export.export(Unit(), (torch.ones(2, 3),))
    suit_xnnpack_(program)
    assert torch.equal(program.module()(torch.zeros(2, 3)), torch.zeros(2, 3))


def test_a_length_that_is_no_root_of_squares_stays() -> None:
    class Sums(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.normalize(x, p=1, dim=-1)

    program = torch.export.export(Sums(), (torch.ones(2, 3),))
    suit_xnnpack_(program)
    assert "aten.linalg_vector_norm.default" in called(program)
    torch.testing.assert_close(program.module()(torch.ones(2, 3)), torch.full((2, 3), 1 / 3))


def test_the_token_of_one_text_is_copied_whole() -> None:
    class Last(nn.Module):
        def forward(self, tokens: Tensor, ids: Tensor) -> Tensor:
            return tokens[torch.arange(tokens.shape[0]), ids.argmax(-1)]

    tokens, ids = torch.randn(1, 5, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([[1, 0, 7, 2, 0]])
    program = torch.export.export(Last(), (tokens, ids))
    suit_xnnpack_(program)
    assert "aten.index.Tensor" not in called(program)
    assert torch.equal(program.module()(tokens, ids), tokens[:, 2])


def test_tokens_of_several_texts_stay() -> None:
    class Last(nn.Module):
        def forward(self, tokens: Tensor, ids: Tensor) -> Tensor:
            return tokens[torch.arange(tokens.shape[0]), ids.argmax(-1)]

    program = torch.export.export(Last(), (torch.ones(2, 5, 3), torch.ones(2, 5)))
    suit_xnnpack_(program)
    assert "aten.index.Tensor" in called(program)
