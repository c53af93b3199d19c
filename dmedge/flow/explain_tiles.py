"""The parts that explanations are drawn of: heat over a picture, who looks where, and curves."""

from collections.abc import Mapping

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dmedge.evidence.attention import AttentionMap, Grid
from dmedge.evidence.regions import Curves
from dmedge.evidence.retrieval import Floats
from dmedge.flow.lettering import FAINT, INK

Colour = tuple[int, int, int]

HEAT: tuple[Colour, ...] = ((255, 237, 160), (254, 178, 76), (240, 59, 32), (122, 1, 60))  # least to most
FOR, AGAINST = (200, 30, 45), (30, 80, 190)
# Told apart with any kind of colour vision: Okabe and Ito 2008.
PALETTE: tuple[Colour, ...] = (
    *((0, 114, 178), (230, 159, 0), (0, 158, 115), (204, 121, 167)),
    *((213, 94, 0), (86, 180, 233), (120, 110, 20), (90, 90, 100)),
)
ORDERS: Mapping[str, Colour] = {"attention": (200, 80, 0), "gradient": (0, 114, 178), "random": (130, 136, 148)}
LEAST_TOP = 4.0  # times an even share: attention that is nearly even must look even
_GAMMA = 0.7  # below 1, so that one bright region does not hide all others
_MUTED = 0.5  # of the picture's colours, under heat


def even_shares(weights: Floats) -> Floats:
    """Shares of [..., P] regions as multiples of an even share, which is 1."""
    shares: Floats = weights * weights.shape[-1]
    return shares


def heat_tile(picture: Image.Image, values: Floats, grid: Grid, top: float) -> Image.Image:
    """The picture under heat: [P] values from 0, which shows nothing, to `top`."""
    level = np.clip(_upsampled(values / top, grid, picture.size), 0, 1) ** _GAMMA
    stops = np.linspace(0, 1, len(HEAT))
    colour = np.stack([np.interp(level, stops, channel) for channel in zip(*HEAT, strict=True)], -1)
    return _over(picture, colour, 0.85 * level[..., None])


def signed_tile(picture: Image.Image, values: Floats, grid: Grid) -> Image.Image:
    """The picture under [P] values: one colour above 0, another below, both full at the largest."""
    top = float(np.abs(values).max()) or 1.0
    level = np.clip(_upsampled(values / top, grid, picture.size), -1, 1)[..., None]
    return _over(picture, np.where(level > 0, FOR, AGAINST).astype(np.float64), 0.85 * np.abs(level) ** 0.8)


def looker_tile(picture: Image.Image, seen: AttentionMap) -> Image.Image:
    """The number of the token that looks most at each region, the deeper in colour the more it does."""
    tile = _muted(picture).convert("RGBA")
    layer = Image.new("RGBA", tile.size)
    draw, font = ImageDraw.Draw(layer), ImageFont.load_default(12)
    shares = even_shares(seen.weights)
    top = max(float(shares.max()), LEAST_TOP)
    rows, columns = seen.grid
    wide, tall = picture.width / columns, picture.height / rows
    for region in range(rows * columns):
        y, x = divmod(region, columns)
        token = int(shares[:, region].argmax())
        alpha = int(235 * min(1.0, float(shares[token, region]) / top))
        box = (round(x * wide), round(y * tall), round((x + 1) * wide) - 1, round((y + 1) * tall) - 1)
        draw.rectangle(box, (*PALETTE[token % len(PALETTE)], alpha))
        if wide >= 14:
            middle = ((x + 0.5) * wide, (y + 0.5) * tall)
            draw.text(middle, str(token + 1), "white" if alpha > 110 else INK, font, anchor="mm")
    return Image.alpha_composite(tile, layer).convert("RGB")


def curve_chart(curves: Mapping[str, Curves], kind: str, size: tuple[int, int], end: float) -> Image.Image:
    """Probability, 0 to `end`, over the share of regions that went or came; random orders as their mean and range.

    Args:
        kind: "deletion" or "insertion".
    """
    width, height = size
    left, top, right, bottom = 38, 26, 20, 36
    chart = Image.new("RGB", size, "white")
    draw, font = ImageDraw.Draw(chart, "RGBA"), ImageFont.load_default(12)

    def place(share: float, value: float) -> tuple[float, float]:
        return left + share * (width - left - right), height - bottom - value / end * (height - top - bottom)

    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        draw.line([place(0, tick * end), place(1, tick * end)], (226, 229, 234))
        draw.text((left - 6, place(0, tick * end)[1]), f"{tick * end:.2g}", FAINT, font, anchor="rm")
        draw.text((place(tick, 0)[0], height - bottom + 5), f"{tick:.0%}", FAINT, font, anchor="ma")
    words = {"deletion": "regions taken out", "insertion": "regions put in"}[kind]
    draw.text((width - right, height - 3), f"{words}, most important first", FAINT, font, anchor="rd")
    draw.text((4, 3), f"{kind}: probability", INK, ImageFont.load_default(13))
    for name, own in sorted(curves.items(), key=lambda item: item[0] != "random"):
        values = own.deletion if kind == "deletion" else own.insertion
        points = [place(float(x), float(y)) for x, y in zip(own.shares, values.mean(0), strict=True)]
        if len(values) > 1:
            edges = [
                [place(float(x), float(y)) for x, y in zip(own.shares, edge, strict=True)]
                for edge in (values.min(0), values.max(0))
            ]
            draw.polygon([*edges[0], *reversed(edges[1])], (*ORDERS[name], 40))
        draw.line(points, ORDERS[name], 2, joint="curve")
    return chart


def _upsampled(values: Floats, grid: Grid, size: tuple[int, int]) -> Floats:
    """[P] values of regions as [H, W], smooth between the middles of regions."""
    small = Image.fromarray(np.ascontiguousarray(values.reshape(grid), np.float32))
    return np.asarray(small.resize(size, Image.Resampling.BICUBIC))


def _muted(picture: Image.Image) -> Image.Image:
    grey = picture.convert("L").convert("RGB")
    faded = Image.blend(Image.new("RGB", picture.size, "white"), grey, 0.75)
    return Image.blend(faded, picture, 1 - _MUTED)


def _over(picture: Image.Image, colour: np.ndarray, alpha: np.ndarray) -> Image.Image:
    below = np.asarray(_muted(picture), np.float64)
    return Image.fromarray((below * (1 - alpha) + colour * alpha).round().astype(np.uint8))
