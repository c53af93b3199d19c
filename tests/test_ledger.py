"""The ledger of compression: what is counted, what is measured, and where it shows."""

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from dmedge.artifact import Artifact
from dmedge.cli.compress import settings
from dmedge.cli.main import cli
from dmedge.compress.config import CompressConfig, LearnConfig
from dmedge.compress.corpus import validation_set
from dmedge.compress.ledger import ledger_line, weight_bytes
from dmedge.compress.recipe import compress_artifact
from dmedge.data.evalset import EvalSet
from dmedge.errors import ConfigError
from dmedge.evidence.accuracy import evaluate
from dmedge.evidence.report_data import Collection
from dmedge.evidence.report_ledger import ledgers
from dmedge.flow.recipe import load_recipe
from dmedge.model.checkpoint import WEIGHTS, load_checkpoint
from dmedge.model.costs import count_costs
from dmedge.training.validation import LiveEncoder
from tests.tiny_bundles import tiny_checkpoint as tiny_checkpoint
from tests.tiny_training import tiny_evalset


@pytest.fixture
def data() -> EvalSet:
    return tiny_evalset()


def test_a_line_says_what_the_parts_say(tiny_checkpoint: Artifact, data: EvalSet) -> None:
    checkpoint = load_checkpoint(tiny_checkpoint)
    line = ledger_line("start", checkpoint, data, frozenset(), torch.float32)
    costs = count_costs(checkpoint.model)
    assert (line.parameters, line.macs) == (costs.parameters, costs.macs)
    encoder = LiveEncoder(checkpoint.model, checkpoint.tokenizer, checkpoint.preprocess)
    scores = evaluate(encoder, data).by_language("text_to_image")
    assert line.languages == {tag: score.recall_at_10 for tag, score in scores.items()}
    assert line.recall_at_10 == pytest.approx(sum(line.languages.values()) / 3)
    assert line.worst_recall_at_10 == min(line.languages.values())


def test_languages_that_are_given_up_do_not_count(tiny_checkpoint: Artifact, data: EvalSet) -> None:
    line = ledger_line("trim", load_checkpoint(tiny_checkpoint), data, frozenset({"bb"}), torch.float32)
    assert line.recall_at_10 == line.worst_recall_at_10 == line.languages["bb"]
    assert (line.worst_language, set(line.languages)) == ("bb", {"aa", "bb", "cc"})


def test_weight_bytes_are_those_on_disk_but_for_the_header(tiny_checkpoint: Artifact) -> None:
    counted = weight_bytes(load_checkpoint(tiny_checkpoint), torch.float32)
    assert 0 <= tiny_checkpoint.file(WEIGHTS).stat().st_size - counted < 20_000


def test_without_texts_nothing_is_measured(tiny_checkpoint: Artifact, tmp_path: Path) -> None:
    config = CompressConfig(int8=True, calibration_items=2, ledger_texts=0)
    made = compress_artifact(tiny_checkpoint, config, tmp_path / "out")
    lines = json.loads(made.file("ledger.json").read_text())
    assert [line["step"] for line in lines] == ["start", "int8"]
    assert all(line["recall_at_10"] is None and line["languages"] == {} for line in lines)
    assert lines[1]["weight_bytes"] < 0.4 * lines[0]["weight_bytes"]


def test_the_ledger_stands_in_the_artifact_the_terminal_and_the_report(
    tiny_checkpoint: Artifact, tmp_path: Path
) -> None:
    out = tmp_path / "int8"
    arguments = ["compress", str(tiny_checkpoint.root), "--int8", "--calibration", "4", "--out", str(out)]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 0, result.output
    lines = json.loads((out / "ledger.json").read_text())
    assert len(lines[0]["languages"]) == 100
    assert f"{lines[1]['recall_at_10']:.4f}" in result.stdout
    assert "worst language" in result.stdout
    from dmedge.manifest import read_manifest

    manifest = read_manifest(out)
    page = ledgers(Collection("runs", {manifest.digest: (out, manifest)}, ()))
    assert "int8: what each step cost" in page
    assert f"{lines[0]['parameters']:,}" in page


def test_a_report_without_compression_has_no_such_section() -> None:
    assert ledgers(Collection("runs", {}, ())) == ""


def test_validation_data_is_not_what_bundles_are_verified_on() -> None:
    data = validation_set("emoji", 0, 2)
    assert "fxemoji" in data.name
    assert max(data.languages.count(tag) for tag in set(data.languages)) == 2


# Flags


def test_flags_become_settings() -> None:
    config = settings(None, {"distill": "parent", "student": "small", "steps": 5, "languages": "en, hi", "keep": ()})
    assert config == CompressConfig(
        distill="parent", student="small", learn=LearnConfig(steps=5), languages=("en", "hi")
    )


def test_a_recipe_gives_its_compress_stage_and_flags_go_over_it() -> None:
    shipped = load_recipe("mobile").first("compress").config
    assert settings("mobile", {}) == shipped
    changed = settings("mobile", {"steps": 3, "prune": 0.5, "int8": None})
    assert (changed.learn.steps, changed.prune, changed.int8) == (3, 0.5, True)
    assert changed.languages == shipped.languages


def test_a_recipe_without_a_compress_stage() -> None:
    with pytest.raises(ConfigError, match=r"recipe 'coco': has no compress stage; expected one"):
        settings("coco", {})


@pytest.mark.parametrize(
    ("arguments", "message", "code"),
    [
        ([], "nothing to do; expected --int8", 2),
        (["--student", "small"], "nothing to do; expected --int8", 2),
        (["--int8", "--student", "small"], "a student without a teacher; expected one", 1),
        (["--prune", "1"], "not in the range 0<=x<1", 2),
        (["--distill", "no-such"], "no-such: no such directory; expected a checkpoint", 1),
        (["--recipe", "mobil"], "did you mean 'mobile'", 1),
    ],
)
def test_bad_input(tiny_checkpoint: Artifact, tmp_path: Path, arguments: list[str], message: str, code: int) -> None:
    out = tmp_path / "out"
    result = CliRunner().invoke(cli, ["compress", str(tiny_checkpoint.root), *arguments, "--out", str(out)])
    assert result.exit_code == code, result.output
    assert message in result.output + str(result.exception)
    assert not list(tmp_path.iterdir())
