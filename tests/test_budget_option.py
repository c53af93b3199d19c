"""What a bundle may cost, from recipes, files and single limits; what comes later counts."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import click
import pytest

from dmedge.artifact import Artifact
from dmedge.cli.budget import budget_option, read_budget, recipe_option
from dmedge.errors import ConfigError
from dmedge.evidence.verdict import Budget, changed_limits
from tests.tiny_bundles import onnx_bundle, tiny_checkpoint

__all__ = ["onnx_bundle", "tiny_checkpoint"]

LIMITS = "class_accuracy_drop = 0.02\nrecall_at_10 = 0.5\n"
RECIPE = f'name = "pets"\n[[stage]]\nkind = "export"\ntarget = "web"\n[budget]\n{LIMITS}'


@pytest.mark.parametrize("text", [LIMITS, f"[budget]\n{LIMITS}", RECIPE], ids=["bare", "table", "recipe"])
def test_a_file_of_limits(text: str, tmp_path: Path) -> None:
    file = tmp_path / "limits.toml"
    file.write_text(text, encoding="utf-8")
    wanted = Budget(class_accuracy_drop=0.02, recall_at_10=0.5)
    assert read_budget(None, [str(file)]) == wanted
    assert read_budget(None, ["recall_at_10=0.9", str(file)]) == wanted
    assert read_budget(None, [str(file), "recall_at_10=0.9"]).recall_at_10 == 0.9
    kept = read_budget("emoji-tiny", [str(file)])  # a recipe keeps what the file says nothing of
    assert kept.recall_at_10 == 0.5
    assert kept.program_size_ratio == read_budget("emoji-tiny", []).program_size_ratio


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "class_acuracy_drop = 0.02",
            r"limits.toml: unknown key 'class_acuracy_drop'; did you mean 'class_accuracy_drop'",
        ),
        ("[budget]\nrecal_at_10 = 1", r"limits.toml: unknown key 'recal_at_10'; did you mean 'recall_at_10'"),
        ("[budgte]\nrecall_at_10 = 1", r"limits.toml: unknown key 'budgte'"),
        ("nme = 1\n[budget]", r"limits.toml: unknown key 'nme' beside \[budget\]; did you mean 'name'"),
        ("budget = 3", r"limits.toml: budget is 3; expected a table \[budget\]"),
        ("recall_at_10 = -1", r"limits.toml: recall_at_10 is -1.0; expected a number from 0"),
        ("[[stage]]\nkind = 'train'", r"limits.toml: a recipe without \[budget\]; expected that table; add it"),
        ("recall_at_10 = ", r"limits.toml: not TOML"),
    ],
)
def test_a_file_that_is_none_is_an_error(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "limits.toml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        read_budget(None, [str(file)])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("strict", "--budget strict: no such file; expected KEY=VALUE, such as program_size_ratio=0.35, or a TOML"),
        ("no.toml", "no.toml: No such file or directory; expected a TOML file"),
        ("program_size=1", "unknown key 'program_size'; did you mean 'program_size_ratio'"),
    ],
)
def test_what_is_neither_is_an_error(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_budget(None, [text])


def test_a_shell_completes_limits_and_files() -> None:
    @click.command()
    @recipe_option
    @budget_option
    def command() -> None:
        """Stands for verify and bench."""

    (option,) = [parameter for parameter in command.params if parameter.name == "limits"]
    found = option.shell_complete(click.Context(command), "class_")
    assert [(item.type, item.value) for item in found] == [
        ("file", "class_"),
        ("plain", "class_accuracy_drop="),
        ("plain", "class_macro_f1_drop="),
    ]


def test_a_bundle_is_judged_by_what_it_was_exported_with(onnx_bundle: Artifact, tmp_path: Path) -> None:
    limits = ["program_size_ratio=2", "worst_match_accuracy_drop=0.5"]
    bundle = replace(onnx_bundle, manifest=replace(onnx_bundle.manifest, summary={"budget": budget_facts(limits)}))
    assert budget_facts([]) == {}
    carried = read_budget(None, [], bundle)
    assert carried == Budget(program_size_ratio=2, worst_match_accuracy_drop=0.5)
    assert read_budget(None, ["program_size_ratio=1"], bundle) == replace(carried, program_size_ratio=1)
    assert read_budget("emoji-tiny", [], bundle) == read_budget("emoji-tiny", [])  # a recipe that is named counts alone
    assert read_budget(None, [], onnx_bundle) == Budget()
    odd = replace(onnx_bundle, manifest=replace(onnx_bundle.manifest, summary={"budget": {"recall_at_9": 1.0}}))
    with pytest.raises(ConfigError, match="budget of the bundle: unknown key 'recall_at_9'"):
        read_budget(None, [], odd)


def budget_facts(limits: Sequence[str]) -> dict[str, float | None]:
    return changed_limits(read_budget(None, limits))
