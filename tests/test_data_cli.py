"""dmedge data: what it prints and draws."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image

from dmedge.cli.main import cli
from dmedge.data.emoji import load_pack
from dmedge.data.sheet import choose_emoji
from dmedge.data.splits import is_unseen_emoji


def test_info_counts_what_is_there() -> None:
    result = CliRunner().invoke(cli, ["data", "info", "--json"])
    assert result.exit_code == 0, result.output
    facts = json.loads(result.stdout)
    splits = facts["splits"]
    assert facts["emoji"] == splits["seen_emoji"] + splits["unseen_emoji"] == 1914
    cells = ("train_cells", "validation_cells", "test_cells", "unseen_emoji_names")
    assert facts["names"] == sum(splits[kind] for kind in cells)
    assert splits["test_cells_novel"] < splits["test_cells"]
    assert (len(facts["locales"]), facts["languages"]) == (100, 96)
    assert {name: style["role"] for name, style in facts["styles"].items() if style["role"] != "train"} == {
        "fxemoji": "validation",
        "twemoji": "test",
    }
    assert facts["size_bytes"] < 14e6


def test_info_for_people_says_which_is_counted() -> None:
    result = CliRunner().invoke(cli, ["data", "info"])
    assert result.exit_code == 0, result.output
    assert "100 locales = 96 languages" in result.stdout
    assert "CC-BY-4.0" in result.stdout


@pytest.mark.parametrize("options", [[], ["--style", "twemoji"], ["--split", "unseen"]], ids=" ".join)
def test_show_draws_a_sheet(tmp_path: Path, options: list[str]) -> None:
    out = tmp_path / "sheet.png"
    result = CliRunner().invoke(cli, ["data", "show", "--out", str(out), "--count", "5", *options])
    assert result.exit_code == 0, result.output
    assert result.stdout.strip() == str(out)
    with Image.open(out) as sheet:
        colours = sheet.convert("RGB").getcolors(1 << 20)
    assert colours is not None
    assert len(colours) > 500


def test_show_keeps_what_exists(tmp_path: Path) -> None:
    out = tmp_path / "sheet.png"
    out.write_text("mine")
    result = CliRunner().invoke(cli, ["data", "show", "--out", str(out)])
    assert result.exit_code == 1
    assert "exists already; expected a new file" in result.stderr
    assert out.read_text() == "mine"


def test_show_names_the_nearest_style(tmp_path: Path) -> None:
    out = tmp_path / "sheet.png"
    result = CliRunner().invoke(cli, ["data", "show", "--out", str(out), "--style", "twemojy"])
    assert result.exit_code == 1
    assert "did you mean 'twemoji'" in result.stderr
    assert not out.exists()


def test_sheet_shows_only_emoji_of_the_split_that_the_style_draws() -> None:
    pack = load_pack()
    _, present = pack.images("fxemoji")
    rows = choose_emoji(pack, "unseen", 1000, "fxemoji")
    assert rows == [i for i, e in enumerate(pack.emoji) if present[i] and is_unseen_emoji(e.hexcode)]
