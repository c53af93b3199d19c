"""What the pages say is what the code does: commands, settings, fields, dependencies, links."""

import json
import re
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import pytest

from dmedge.cli.main import COMMANDS
from dmedge.compress.config import LearnConfig
from dmedge.config import recipe_names
from dmedge.data.records import DatasetConfig
from dmedge.devices.adb import PROPERTIES
from dmedge.devices.local import local_facts
from dmedge.devices.remote import remote_facts
from dmedge.evidence import perturb_images, perturb_texts
from dmedge.evidence.agreement import Agreement
from dmedge.evidence.head_rows import FIGURES, HEADS
from dmedge.evidence.heads import Head
from dmedge.evidence.robustness import NAMES
from dmedge.evidence.verdict import HEAD_DROPS, Budget
from dmedge.flow.recipe import CONFIGS
from dmedge.manifest import Manifest
from dmedge.study.config import StudyConfig
from dmedge.training.config import TowerConfig
from tests.test_packaging import requirements

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
TABLES: dict[str, type[Any]] = {
    **{kind: config() for kind, config in CONFIGS.items()},
    "model": TowerConfig,
    "dataset": DatasetConfig,
    "learn": LearnConfig,
    "budget": Budget,
}


def page(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_there_are_pages() -> None:
    names = {path.name for path in PAGES}
    assert {
        "README.md",
        "CHANGELOG.md",
        "architecture.md",
        "artifacts.md",
        "data.md",
        "recipes.md",
        "training.md",
    } <= names


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", path.read_text(encoding="utf-8")):
        if not target.startswith(("http://", "https://")):
            assert (path.parent / target).exists(), target


@pytest.mark.parametrize("command", COMMANDS)
def test_the_readme_has_a_row_for_every_command(command: str) -> None:
    assert re.search(rf"^\| `dmedge {command}\b", page("README.md"), flags=re.MULTILINE)


@pytest.mark.parametrize("kind", TABLES)
def test_every_setting_is_named_with_its_default(kind: str) -> None:
    section = re.split(
        r"^### ", page("docs/recipes.md").partition(f"\n### {kind}\n")[2], maxsplit=1, flags=re.MULTILINE
    )[0]
    rows = re.findall(r"^\| `(\w+)` \| ([^|]*?) \| [^|]+ \|$", section, flags=re.MULTILINE)
    assert dict(rows) == {field.name: shown_default(field) for field in fields(TABLES[kind])}


def test_every_setting_of_a_study_is_named_with_its_default() -> None:
    rows = re.findall(r"^\| `(\w+)` \| ([^|]*?) \| [^|]+ \|$", page("docs/study.md"), flags=re.MULTILINE)
    assert dict(rows) == {field.name: shown_default(field) for field in fields(StudyConfig)}


def shown_default(field: Any) -> str:
    """How the page writes a default."""
    default = field.default
    if default is MISSING:
        return "required" if field.default_factory is MISSING else "below"
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    if isinstance(default, str):
        return f'`"{default}"`'
    if isinstance(default, tuple):
        return f"`{json.dumps(default)}`"
    return "none" if default is None else f"`{default}`"


def test_every_shipped_recipe_is_named() -> None:
    section = page("docs/recipes.md").partition("ship with dmedge")[2].partition("\n## ")[0]
    assert set(re.findall(r"^\| `([\w-]+)` \|", section, flags=re.MULTILINE)) == set(recipe_names())


def test_every_field_of_a_manifest_is_named() -> None:
    section = page("docs/artifacts.md").partition("## manifest.json")[2].partition("## Checkpoint")[0]
    named = re.findall(r"^\| `(\w+)` \|", section, flags=re.MULTILINE)
    assert set(named) == {field.name for field in fields(Manifest)} | {"digest"}


def test_every_fact_of_a_machine_is_named() -> None:
    section = page("docs/devices.md").partition("\n## What is noted\n")[2].partition("\n## ")[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    told = {*local_facts(), *remote_facts({}), *PROPERTIES, "battery"}
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row)} == told


@pytest.mark.parametrize("extra", sorted(requirements()))
def test_every_dependency_has_a_reason(extra: str) -> None:
    core, _, extras = page("docs/dependencies.md").partition("## Extras")
    if extra:
        rows = re.findall(r"^\| ([\w, ]+) \| ([\w, -]+) \| .+ \|$", extras, flags=re.MULTILINE)
        named = {package for names, packages in rows if extra in names.split(", ") for package in packages.split(", ")}
    else:
        named = set(re.findall(r"^\| ([\w-]+) \| .+ \|$", core, flags=re.MULTILINE)) - {"package"}
    assert named == requirements()[extra] - {"dmedge"}


def test_every_perturbation_is_named_with_its_strengths() -> None:
    section = page("docs/evidence.md").partition("\n## Robustness\n")[2].partition("\n## ")[0].lower()
    assert all(f"| {name.replace('_', ' ')} |" in section for name in NAMES)
    spans = [
        f"{perturb_images.NOISE[0]:g} to {perturb_images.NOISE[-1]:g} of the range",
        f"{perturb_images.BLUR[0]:.3f} to {perturb_images.BLUR[-1]:.3f} of the shorter side",
        f"quality {', '.join(f'{quality:g}' for quality in perturb_images.JPEG)}",
        f"{perturb_images.EXPOSURE[0]:g} to {perturb_images.EXPOSURE[-1]:g} stops",
        f"{perturb_images.ANGLE[0]:g} to {perturb_images.ANGLE[-1]:g} degrees",
        f"{100 * perturb_images.COVERED[0]:g} to {100 * perturb_images.COVERED[-1]:g} % of the area",
        f"{100 * perturb_texts.EDITS[0]:g} to {100 * perturb_texts.EDITS[-1]:g} % of the letters",
        f"{100 * perturb_texts.CHANGED[0]:g} to {100 * perturb_texts.CHANGED[-1]:g} % of the words in capitals",
        f"the first {100 * perturb_texts.TYPED[0]:g} to {100 * perturb_texts.TYPED[-1]:g} % of the letters",
        f"{perturb_texts.TIMES[0]:g} to {perturb_texts.TIMES[-1]:g} times as long",
        f"{100 * perturb_texts.SWITCHED[0]:g} to {100 * perturb_texts.SWITCHED[-1]:g} % of the words from",
    ]
    assert [span for span in spans if span not in section] == []


def test_every_figure_of_a_head_is_explained() -> None:
    section = page("docs/evidence.md").partition("\n## Heads\n")[2].partition("\n## ")[0]
    named = set(re.findall(r"`(\w+)`", section))
    assert {*HEADS, *FIGURES, *HEAD_DROPS, *(field.name for field in fields(Head))} - {"n"} <= named


def test_every_figure_of_agreement_is_explained() -> None:
    section = page("docs/evidence.md").partition("\n## Rankings\n")[2].partition("\n## ")[0]
    named = set(re.findall(r"`(\w+)`", section))
    assert {field.name for field in fields(Agreement)} - {"n"} <= named
