"""Ranges of activations: what calibration sees, and the int8 range that suits it best."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from dmedge.model.dual import DualEncoder
from dmedge.model.quantized import ACTIVATION_MAX, ACTIVATION_MIN, Range, replace_module_

SAMPLES_PER_BATCH = 16_384  # of each activation
SHRINKAGES = [1 - step / 50 for step in range(26)]  # of the observed range, down to one half


class RangeObserver(nn.Module):
    """Stands at an activation point while calibration data runs through."""

    def __init__(self) -> None:
        super().__init__()
        self.low = self.high = 0.0  # zero is always inside, since padding and ReLU need it exact
        self.samples: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        """Look at `x` and pass it on."""
        self.low = min(self.low, x.min().item())
        self.high = max(self.high, x.max().item())
        flat = x.flatten()
        self.samples.append(flat[:: max(1, flat.numel() // SAMPLES_PER_BATCH)].clone())
        return x

    def best_range(self) -> Range:
        """The range with the least squared error, clipping of outliers included."""
        samples = torch.cat(self.samples)
        candidates = [affine_range(self.low * share, self.high * share) for share in SHRINKAGES]
        return min(candidates, key=lambda candidate: _squared_error(samples, candidate))


def affine_range(low: float, high: float) -> Range:
    """The asymmetric int8 range that covers low..high, in which zero is exact.

    Args:
        low: at most 0.
        high: at least 0.
    """
    scale = max(high - low, 1e-6) / (ACTIVATION_MAX - ACTIVATION_MIN)
    return Range(scale, min(ACTIVATION_MAX, max(ACTIVATION_MIN, round(ACTIVATION_MIN - low / scale))))


def _squared_error(x: Tensor, range_: Range) -> float:
    codes = torch.round(x / range_.scale + range_.zero_point).clamp(ACTIVATION_MIN, ACTIVATION_MAX)
    return float(((codes - range_.zero_point) * range_.scale - x).square().sum())


@torch.no_grad()
def observe_ranges(model: DualEncoder, points: Sequence[str], batches: Iterable[Tensor]) -> dict[str, Range]:
    """Run uint8 [B, H, W, 3] batches through the image tower and choose a range for each point.

    Args:
        model: float, with batch normalisation folded; the points are put back afterwards.
        points: names of the activation points to observe.
        batches: calibration pictures.
    """
    replaced = {name: model.get_submodule(name) for name in points}
    observers = {name: RangeObserver() for name in points}
    try:
        for name, observer in observers.items():
            replace_module_(model, name, observer)
        for pixels in batches:
            model.image(pixels)
    finally:
        for name, module in replaced.items():
            replace_module_(model, name, module)
    return {name: observer.best_range() for name, observer in observers.items()}
