"""What is rewritten for XNNPACK computes the same, without the operations that it refuses."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.nn import functional as F

from dmedge.export.quiet import quiet
from dmedge.export.xnnpack_rules import infer_one_size, suit_xnnpack_
from dmedge.model.attention import Attention

PERMUTE = torch.ops.aten.permute.default


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


def lowered(
    module: nn.Module, example: tuple[Tensor, ...], varies: tuple[dict[int, Dim], ...]
) -> tuple[list[str], Any]:
    """What the program calls, and the program of ExecuTorch; its methods do not keep it alive."""
    program = torch.export.export(module.eval(), example, dynamic_shapes=varies)
    with quiet():
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower
        from executorch.runtime import Runtime

        edge = to_edge_transform_and_lower(
            program, transform_passes=[infer_one_size], partitioner=[XnnpackPartitioner()]
        )
        called = [node.name for node in edge.exported_program().graph.nodes if node.op == "call_function"]
        loaded = Runtime.get().load_program(edge.to_executorch().buffer)
    return [name for name in called if not name.startswith(("getitem", "sym_size"))], loaded


@torch.no_grad()
def test_attention_over_any_number_of_tokens_is_one_piece() -> None:
    torch.manual_seed(0)
    attention = Attention(16, 4)
    free = {1: Dim("length", min=2, max=12)}
    called, loaded = lowered(attention, (torch.randn(1, 7, 16), torch.randn(1, 7, 16)), (free, free))
    assert called == ["executorch_call_delegate"]
    method = loaded.load_method("forward")
    for tokens in (1, 2, 7, 12):
        x = torch.randn(1, tokens, 16)
        torch.testing.assert_close(method.execute([x, x])[0], attention(x, x), rtol=1e-5, atol=1e-6)


def test_a_view_of_which_two_sizes_vary_stays() -> None:
    class Turned(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x + x).view(x.shape[1], x.shape[0], 3)

    free = {0: Dim("a", min=2, max=5), 1: Dim("b", min=2, max=5)}
    called, loaded = lowered(Turned(), (torch.arange(18.0).view(2, 3, 3),), (free,))
    assert "aten_view_copy_default" in called
    x = torch.arange(60.0).view(4, 5, 3)
    assert torch.equal(loaded.load_method("forward").execute([x])[0], Turned()(x))


def test_what_is_computed_twice_is_computed_once() -> None:
    class Twice(nn.Module):
        def forward(self, patches: Tensor) -> tuple[Tensor, Tensor]:
            return patches.mean(1) + 1, patches.mean(1) * 2

    patches = torch.randn(1, 6, 4, generator=torch.Generator().manual_seed(0))
    program = torch.export.export(Twice(), (patches,))
    assert called(program).count("aten.mean.dim") == 2
    suit_xnnpack_(program)
    assert [name for name in called(program) if name.startswith(("aten.mean", "aten.sum"))] == ["aten.sum.dim_IntList"]
    for want, got in zip(Twice()(patches), program.module()(patches), strict=True):
        torch.testing.assert_close(got, want)


def test_equal_values_that_are_written_to_stay_apart() -> None:
    class Written(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            one, other = x.clone(), x.clone()
            return one.mul_(2).neg(), other.neg()

    program = torch.export.export(Written(), (torch.ones(3),))
    suit_xnnpack_(program)
    doubled, plain = program.module()(torch.ones(3))
    assert torch.equal(doubled, torch.full((3,), -2.0)) and torch.equal(plain, torch.full((3,), -1.0))


class Masked(nn.Module):
    """Attention of a text to itself."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = Attention(16, 4)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Map [B, L, W] under a [B, L] mask."""
        return self.attention(x, x, self.attention.bias(mask))  # type: ignore[no-any-return]


def turns(program: torch.export.ExportedProgram) -> list[int]:
    """How many axes what turns heads and tokens has."""
    return [len(node.args[1]) for node in program.graph.find_nodes(op="call_function", target=PERMUTE)]


@torch.no_grad()
def test_heads_of_one_text_are_parted_and_masked_in_fewer_operations() -> None:
    torch.manual_seed(0)
    attention, free = Masked(), {1: Dim("length", min=2, max=12)}
    example = torch.randn(1, 7, 16), torch.ones(1, 7, dtype=torch.int32)
    program = torch.export.export(attention, example, dynamic_shapes=(free, free))
    before = len(called(program))
    suit_xnnpack_(program)
    assert turns(program) == [3] * 4 and "aten.expand.default" not in called(program)
    # A view for each, two more axes of the mask, its repeating, and the length that this had to know.
    assert len(called(program)) == before - 4 - 2 - 1 - 1
    for length, kept in ((2, 2), (7, 4), (12, 1)):
        x, mask = torch.randn(1, length, 16), (torch.arange(length) < kept).to(torch.int32)[None]
        torch.testing.assert_close(program.module()(x, mask), attention(x, mask))


@torch.no_grad()
def test_heads_of_several_texts_stay() -> None:
    torch.manual_seed(0)
    attention = Masked()
    inputs = torch.randn(2, 7, 16), torch.tensor([[1] * 7, [1] * 5 + [0] * 2], dtype=torch.int32)
    program = torch.export.export(attention, inputs)
    suit_xnnpack_(program)
    assert turns(program) == [4] * 4 and "aten.expand.default" in called(program)
    torch.testing.assert_close(program.module()(*inputs), attention(*inputs))


def test_a_mask_that_makes_the_heads_stays_repeated() -> None:
    class Same(nn.Module):
        def forward(self, scores: Tensor, bias: Tensor) -> Tensor:
            return scores + bias[:, None, None, :].expand(1, 4, 1, 5).reshape(4, 1, 5)

    inputs = torch.ones(1, 3, 5), torch.arange(5.0)[None]
    program = torch.export.export(Same(), inputs)
    suit_xnnpack_(program)
    assert "aten.expand.default" in called(program)
    assert torch.equal(program.module()(*inputs), Same()(*inputs))
