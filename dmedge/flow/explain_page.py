"""Explanations as one HTML page: self-contained, and the browser writes every script."""

import base64
from collections.abc import Sequence
from html import escape
from io import BytesIO

from PIL import Image

from dmedge.data.languages import LANGUAGES
from dmedge.evidence.report_style import STYLE
from dmedge.evidence.report_text import section
from dmedge.flow.explain import Explanation
from dmedge.flow.explain_picture import Tile, curve_end, map_tiles, summary, token_tiles
from dmedge.flow.explain_tiles import ORDERS, PALETTE, curve_chart

_CURVES = "What is left of the answer as regions leave the picture, or come to a white one, in three orders."
CHART = (520, 240)  # pixels
TILE_STYLE = """
.tiles{display:flex;flex-wrap:wrap;gap:18px}figure{margin:0;width:168px}figure img{display:block;border-radius:6px;
border:1px solid var(--line)}figcaption{margin-top:6px;font-weight:600;font-size:16px;overflow-wrap:anywhere}
figcaption small{display:block;font-weight:400;font-size:12px;color:var(--muted)}.chart{width:100%;max-width:520px}
.no{display:inline-block;min-width:20px;text-align:center;border-radius:5px;color:#fff;font-size:12px;padding:1px 4px;
margin-inline-end:6px}.tiles+.tiles{margin-top:22px}
"""
NOTE = (
    "Attention says where the fusion looked, not what its answer rests on. Spread: entropy of a token's attention, "
    "0 for one region, 1 for all alike."
)


def render_explanation(found: Explanation) -> str:
    """One pair with maps and curves, as the text of a page."""
    end = curve_end(found)
    charts = "".join(
        f'<img class="chart" alt="{kind} curve" src="{data_uri(curve_chart(found.curves, kind, CHART, end))}">'
        for kind in ("deletion", "insertion")
    )
    keys = "".join(
        f'<span class="key"><i style="background:{_css(ORDERS[name])}"></i>'
        f"{'random orders, mean and range' if name == 'random' else f'order by {name}'}</span>"
        for name in found.curves
    )
    body = [
        section("The whole text", _tiles(map_tiles(found), is_right_to_left=False)),
        section("Token by token", _tiles(token_tiles(found), is_right_to_left=found.is_right_to_left))
        if found.attention is not None
        else "",
        section("Do the regions matter?", note=_CURVES, body=f'{keys}<div class="pair">{charts}</div>'),
    ]
    heading = f'<h1 dir="auto">{escape(found.text)}</h1><p class="lead">{escape(summary(found))}</p>'
    return _page(found.text, heading, "".join(body))


def render_gallery(found: Sequence[Explanation], title: str) -> str:
    """Heat maps of many pairs, as the text of a page."""
    return _page(title, f"<h1>{escape(title)}</h1>", gallery_body(found))


def gallery_body(found: Sequence[Explanation]) -> str:
    """Heat maps of many pairs, one section each, for a page with `STYLE` and `TILE_STYLE`."""
    body = []
    for one in found:
        known = LANGUAGES.get(one.language or "")
        language = escape(known.name if known else one.language or "")
        name = f'<bdi>{escape(one.text)}</bdi> <span class="chip plain">{language}</span>'
        tiles = [*map_tiles(one)[:2], *token_tiles(one)] if one.attention is not None else map_tiles(one)
        body.append(section(name, _tiles(tiles, is_right_to_left=one.is_right_to_left), note=escape(summary(one))))
    return "".join(body)


def data_uri(image: Image.Image) -> str:
    """A picture inside the page."""
    stream = BytesIO()
    image.save(stream, "PNG")
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"


def _tiles(tiles: Sequence[Tile], *, is_right_to_left: bool) -> str:
    figures = "".join(
        f'<figure><img width="168" height="168" alt="" src="{data_uri(tile.image)}"><figcaption>{_number(tile)}'
        f"<bdi>{escape(tile.caption)}</bdi><small>{escape(tile.note)}</small></figcaption></figure>"
        for tile in tiles
    )
    return f'<div class="tiles" dir="{"rtl" if is_right_to_left else "ltr"}">{figures}</div>'


def _number(tile: Tile) -> str:
    if tile.number is None:
        return ""
    colour = _css(PALETTE[tile.number % len(PALETTE)])
    return f'<span class="no" style="background:{colour}">{tile.number + 1}</span>'


def _css(colour: tuple[int, int, int]) -> str:
    return "#" + bytes(colour).hex()


def _page(title: str, heading: str, body: str) -> str:
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)} · dmedge explain</title><style>{STYLE}{TILE_STYLE}</style></head><body><main>"
        f'<header><p class="eyebrow">dmedge explain</p>{heading}<p class="note">{NOTE}</p></header>{body}'
        "</main></body></html>\n"
    )
