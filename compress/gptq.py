"""4-bit weights by GPTQ: every linear is rounded so that its outputs on calibration data change least.

The arithmetic is neural-compressor's, a layer at a time: its search for blocks of a language model would find one
tower at most, while inputs of any linear can be watched from outside.

Source: Frantar et al. 2022, arXiv:2210.17323.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dmedge.compress.calibration import CalibrationSet
from dmedge.compress.neural_compressor import require_neural_compressor
from dmedge.data.hf_tokenizer import AnyTokenizer
from dmedge.model.dual import DualEncoder
from dmedge.model.nibbles import GROUP, codes_on_grid, short_scale

logger = logging.getLogger(__name__)
BATCH = 64
DAMPING = 0.01  # of the mean of the Hessian's diagonal, added to it
GRID: Mapping[str, object] = {  # in the words of neural-compressor; `mse` searches the scale with the least error
    "bits": 4,
    "dtype": "int",
    "sym": True,
    "mse": True,
    "perchannel": True,
    "group_size": GROUP,
    "use_double_quant": False,
    "double_quant_sym": False,
}


@torch.no_grad()
def fit_groups(
    model: DualEncoder, names: Sequence[str], tokenizer: AnyTokenizer, calibration: CalibrationSet
) -> dict[str, tuple[Tensor, Tensor]]:
    """Fit the 4-bit codes of some linears to what calibration data feeds them.

    Args:
        model: float; it is left as it is.
        names: linears whose inputs divide into groups; one that no data reaches is rounded to nearest.
        tokenizer: of the texts.
        calibration: pictures and texts.

    Returns:
        name -> int8 codes [outputs, inputs] within -8..7 and float32 scales [outputs, inputs / GROUP].

    Raises:
        DmedgeError: neural-compressor is not installed.
    """
    logger.info("fitting the 4-bit weights of %d linear layers", len(names))
    with _neural_compressor() as library:
        linears = {name: model.get_submodule(name) for name in names}
        fits = {name: _layer_fit(library, linear) for name, linear in linears.items()}
        hooks = [linear.register_forward_pre_hook(_watch(fits[name])) for name, linear in linears.items()]
        try:
            run_unpadded(model, tokenizer, calibration)
        finally:
            for hook in hooks:
                hook.remove()
        return {name: _round(fits[name], linear.get_parameter("weight")) for name, linear in linears.items()}


@contextmanager
def _neural_compressor() -> Iterator[Any]:
    """Its GPTQ, which tells more on stderr than anyone asks for, from its import on."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield require_neural_compressor("torch.algorithms.weight_only.gptq")
    finally:
        logging.disable(disabled)


def _layer_fit(library: Any, linear: nn.Module) -> Any:
    fit = library.GPTQ(linear, linear.get_parameter("weight"))
    fit.quantizer.configure(GRID)
    find_params = fit.quantizer.find_params

    def find_short_params(x: Tensor, weight: bool = False) -> None:
        find_params(x, weight)
        fit.quantizer.scale = short_scale(fit.quantizer.scale)  # before codes are chosen for it

    fit.quantizer.find_params = find_short_params
    return fit


def _watch(fit: Any) -> Any:
    def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        fit.add_batch(inputs[0].reshape(1, -1, inputs[0].shape[-1]), None)

    return hook


def _round(fit: Any, weight: Tensor) -> tuple[Tensor, Tensor]:
    silent = fit.H.diagonal() == 0
    fit.H[silent, silent] = 1  # or weights of inputs that calibration never moved would become 0
    scale, _, _, rounded = fit.fasterquant(weight.detach().clone(), blocksize=GROUP, percdamp=DAMPING, groupsize=GROUP)
    fit.free()
    return codes_on_grid(rounded, scale), scale.contiguous()


def run_unpadded(model: DualEncoder, tokenizer: AnyTokenizer, calibration: CalibrationSet) -> None:
    """Run all programs on the calibration data, texts of equal length together: padding is nothing to fit to."""
    ids, mask = tokenizer.batch(calibration.texts)
    patterns, kind = np.unique(mask, axis=0, return_inverse=True)
    for number, pattern in enumerate(patterns):
        rows = np.flatnonzero(kind.reshape(-1) == number)
        for start in range(0, len(rows), BATCH):
            batch = rows[start : start + BATCH]
            unpadded = torch.from_numpy(ids[batch][:, pattern > 0])
            ones = torch.ones_like(unpadded)
            _, patches = model.encode_image(torch.from_numpy(calibration.pixels[batch]))
            _, tokens = model.encode_text(unpadded, ones)
            if model.fusion is not None:
                model.fuse(patches, tokens, ones)
