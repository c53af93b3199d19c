"""Several bundles judged at once, JUnit, Markdown, and the front of several runs."""

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import click
import pytest
from click.testing import CliRunner, Result

from dmedge.artifact import Artifact, load_artifact, new_artifact
from dmedge.cli.bench import bench
from dmedge.cli.compare import print_contest
from dmedge.cli.main import cli
from dmedge.cli.verify import fail_on_any, verify
from dmedge.errors import ArtifactError, DmedgeError, RuntimeFailure, VerifyError
from dmedge.evidence.bootstrap import Estimate
from dmedge.evidence.compare import Contender, Contest, Place, compare_folders
from dmedge.evidence.compare_page import comparison_page
from dmedge.evidence.config import BenchConfig, VerifyConfig
from dmedge.evidence.junit import junit_xml
from dmedge.evidence.report_data import collect
from dmedge.evidence.report_markdown import FLAGS, markdown_table, render_markdown
from dmedge.evidence.standing import Standing
from dmedge.flow import prove
from dmedge.flow.prove_each import Proof, places_of
from tests.proven_bundles import bench_evidence, data, pictures, verify_evidence
from tests.test_report import Balance
from tests.tiny_bundles import int8_checkpoint, onnx_bundle, onnx_int8_bundle, tiny_checkpoint

__all__ = [
    "bench_evidence",
    "data",
    "int8_checkpoint",
    "onnx_bundle",
    "onnx_int8_bundle",
    "pictures",
    "tiny_checkpoint",
    "verify_evidence",
]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def read(evidence: Artifact, name: str) -> dict[str, Any]:
    table: dict[str, Any] = json.loads(evidence.file(name).read_text("utf-8"))
    return table


# Several bundles


def test_several_bundles_end_in_one_table_and_the_baseline_is_measured_once(
    onnx_int8_bundle: Artifact, onnx_bundle: Artifact, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prove._baseline_side.cache_clear()
    out, junit = tmp_path / "evidence", tmp_path / "deep" / "junit.xml"
    bundles = (onnx_int8_bundle.root, onnx_bundle.root)
    result = run("verify", *bundles, "--data", pictures, "--out", out, "--junit", junit)
    assert result.exit_code == 3, result.stderr  # float32 is larger than 0.3 of float32
    assert prove._baseline_side.cache_info().misses == 1
    table = result.stdout.splitlines()[-3:]
    assert table[0].split()[:3] == ["artifact", "programs", "recall@10"]
    assert [line.split()[0] for line in table[1:]] == [onnx_int8_bundle.name, onnx_bundle.name]
    assert table[2].endswith("fail") and f"{onnx_bundle.root} (program_size_ratio)" in " ".join(result.stderr.split())
    evidence = [load_artifact(out / f"{name.name}-verify", kind="evidence") for name in (onnx_int8_bundle, onnx_bundle)]
    assert [found.manifest.summary["verdict"] for found in evidence][1] == "fail"
    suites = ElementTree.parse(junit).getroot().findall("testsuite")
    assert [suite.get("name") for suite in suites] == [onnx_int8_bundle.name, onnx_bundle.name]
    again = run("verify", *bundles, "--data", pictures, "--out", out)
    assert again.exit_code == 1 and "exists already" in again.stderr
    only = run("verify", onnx_int8_bundle.root, "--data", pictures, "--out", tmp_path / "one", "--json")
    assert json.loads(only.stdout)["artifact_sha256"] == onnx_int8_bundle.digest  # one is an object, as ever
    contest = compare_folders([out])
    assert {row.standing.name for row in contest.contenders} == {
        found.digest[:12] for found in (onnx_bundle, onnx_int8_bundle)
    }


def test_all_that_failed_are_named_and_the_gravest_ends_the_command(onnx_bundle: Artifact) -> None:
    def proof(name: str, error: DmedgeError | None = None, **verdicts: str) -> Proof:
        bundle = replace(onnx_bundle, root=Path(name))
        return Proof(bundle, None if error else onnx_bundle, report_of(verdicts), error)

    died, wrong = RuntimeFailure("died of it"), VerifyError("computes something else")
    slow = proof("slow", latency_ratio="fail")
    with pytest.raises(VerifyError, match=r"^budget failed: slow \(latency_ratio\); see .*; crashed: died of it$"):
        fail_on_any([proof("crashed", died), slow])
    with pytest.raises(VerifyError, match="^crashed: died of it; other: computes something else$"):
        fail_on_any([proof("crashed", died), proof("other", wrong)])
    died = RuntimeFailure("died of it")
    with pytest.raises(RuntimeFailure, match="^crashed: died of it$"):
        fail_on_any([proof("crashed", died), replace(slow, report={**slow.report, "verdict": "pass"})])


def test_two_bundles_of_one_name_need_places_of_their_own(onnx_bundle: Artifact, tmp_path: Path) -> None:
    twin = load_artifact(shutil.copytree(onnx_bundle.root, tmp_path / onnx_bundle.name))
    with pytest.raises(ArtifactError, match="would hold the evidence of several bundles"):
        places_of([onnx_bundle, twin], tmp_path / "out", "verify")
    assert places_of([onnx_bundle, twin], None, "verify")[1] == tmp_path / f"{onnx_bundle.name}-verify"


# JUnit


def report_of(verdicts: dict[str, str]) -> dict[str, Any]:
    figures = {"pass": (0.2, 0.2), "fail": (0.4, 0.4), "not enough data": (0.2, 0.4)}
    lines = [
        {"name": name, "limit": 0.3, "value": figures[v][0], "low": figures[v][0], "high": figures[v][1], "verdict": v}
        for name, v in verdicts.items()
    ]
    runtime = {"runtime": "onnxruntime", "version": "1", "threads": 1}
    return {"budgets": lines, "verdict": "fail", "artifact_sha256": "a" * 64, "runtime": runtime}


def test_junit_has_a_case_for_every_budget_and_counts_them() -> None:
    report = report_of({"program_size_ratio": "fail", "latency_ratio": "not enough data", "parity_error_ratio": "pass"})
    root = ElementTree.fromstring(junit_xml([("a <b>\x00", report), ("c", report_of({}))], stage="verify"))
    assert root.tag == "testsuites"
    assert {key: root.get(key) for key in ("tests", "failures", "errors", "skipped")} == {
        "tests": "3",
        "failures": "1",
        "errors": "0",
        "skipped": "1",
    }
    suite, empty = root.findall("testsuite")
    assert suite.get("name") == "a <b>\ufffd" and empty.get("tests") == "0"
    size, latency, parity = suite.findall("testcase")
    assert [case.get("name") for case in (size, latency, parity)] == [line["name"] for line in report["budgets"]]
    failure, skipped = size.find("failure"), latency.find("skipped")
    assert failure is not None and failure.get("message") == "program_size_ratio is 0.4; expected at most 0.3"
    assert skipped is not None and skipped.get("message") == (
        "not enough data: latency_ratio is 0.2 (0.2 to 0.4); expected at most 0.3"
    )
    assert parity.find("failure") is None and parity.find("skipped") is None
    assert {row.get("name") for row in suite.iter("property")} >= {"artifact_sha256", "runtime", "verdict"}


# Markdown


def test_markdown_says_the_verdict_first_and_how_to_make_it_again(
    verify_evidence: Artifact, bench_evidence: Artifact, tiny_checkpoint: Artifact, tmp_path: Path
) -> None:
    page = render_markdown(collect(verify_evidence.root))
    report = read(verify_evidence, "verify.json")
    (name,) = (entry.name for entry in collect(verify_evidence.root).judged)
    assert page.startswith(f"## {name}: {report['verdict']}\n")
    assert page.count("\n| ") > len(report["budgets"])
    for digest in (report["artifact_sha256"], report["baseline_sha256"], report["data"]["sha256"]):
        assert f"`{digest}`" in page
    assert f"dmedge verify {name} --baseline {tiny_checkpoint.name} --data captioned --robustness\n" in page
    assert f"dmedge bench {name} --baseline {tiny_checkpoint.name} --data captioned --rounds 2" in page
    for line in report["budgets"]:
        assert line["verdict"] in page
    result = run("report", verify_evidence.root, "--markdown")
    assert result.stdout.rstrip("\n") == page.rstrip("\n")
    assert run("report", verify_evidence.root, "--out", tmp_path / "x.md").exit_code == 0
    assert (tmp_path / "x.md").read_text("utf-8") == page
    assert run("report", verify_evidence.root, "--out", tmp_path / "x.md").exit_code == 1


@pytest.mark.parametrize(("command", "config"), [(verify, VerifyConfig()), (bench, BenchConfig())])
def test_every_setting_that_changes_a_figure_is_in_the_command(
    command: click.Command, config: VerifyConfig | BenchConfig
) -> None:
    """And under the name and with the default that the option has."""
    options = {option.name: option for option in command.params if isinstance(option, click.Option)}
    settings, defaults = asdict(config), command.make_context(command.name, []).params
    for name in options.keys() & settings.keys() - {"workers", "runner"}:
        flag, default = FLAGS[name]
        assert flag in options[name].opts
        assert settings[name] == defaults[name] == (tuple(default) if isinstance(default, list) else default)


def test_a_cell_stays_a_cell() -> None:
    rows = markdown_table(["a", "b"], [["x|y\nz", "<script>"]])
    assert rows == ["| a | b |", "| --- | --- |", "| x\\|y z | &lt;script> |"]


# The front

HERE, THERE = Place("local", "cpu", 2, 1), Place("local", "cpu", 2, 4)
BASE = Standing(
    name="base",
    digest="0" * 64,
    target="android",
    runtime="executorch",
    data="emoji, 9 texts",
    data_sha256="1" * 64,
    program_bytes=1000,
    recall_at_10=0.8,
    chance_at_10=0.1,
    kept=Estimate(0.9, 0.8, 1.0, 10, 10),
    worst_language="en",
    worst_kept=0.9,
    verdict="pass",
)


def contender(name: str, size: int, recall: float, ms: dict[Place, float] | None = None, **changes: Any) -> Contender:
    return Contender(replace(BASE, name=name, program_bytes=size, recall_at_10=recall, **changes), ms or {})


def fronts(*contenders: Contender) -> set[str]:
    contest = Contest(contenders, ())
    return {found.standing.name for found in contenders if not contest.beaten_by(found)}


def test_software_in_place_of_a_gpu_is_another_place() -> None:
    gpu = {"vendor": "nvidia", "architecture": "ada", "device": "", "description": "", "is_software": False}
    runtime = {"threads": 1, "adapter": gpu}
    report = {"device": "web:webgpu", "host": {"before": {"cpu": "cpu", "cores": 2}}, "runtime": runtime}
    assert str(Place.read(report)) == "web:webgpu by nvidia ada: cpu, 2 cores, 1 thread"
    software = report | {"runtime": runtime | {"adapter": gpu | {"is_software": True}}}
    assert Place.read(software).device == "web:webgpu by software (nvidia ada), no GPU"
    assert Place.read(software) != Place.read(report)


def test_the_front_is_what_nothing_beats() -> None:
    small, good = contender("small", 10, 0.5), contender("good", 100, 0.9)
    worse, same = contender("worse", 100, 0.8), contender("same", 100, 0.9)
    assert fronts(small, good, worse, same) == {"small", "good", "same"}
    assert fronts(worse) == {"worse"}


def test_being_quicker_keeps_one_on_the_front() -> None:
    good, quick = contender("good", 10, 0.9, {HERE: 2.0}), contender("quick", 20, 0.8, {HERE: 1.0})
    assert fronts(good, quick) == {"good", "quick"}
    assert fronts(good, contender("slow", 20, 0.8, {HERE: 3.0})) == {"good"}


def test_only_like_is_compared_with_like() -> None:
    good = contender("good", 10, 0.9, {HERE: 2.0})
    for other in (
        contender("elsewhere", 20, 0.8, {THERE: 3.0}),
        contender("not timed", 20, 0.8),
        contender("other target", 20, 0.8, {HERE: 3.0}, target="web"),
        contender("other data", 20, 0.8, {HERE: 3.0}, data_sha256="2" * 64),
    ):
        assert fronts(good, other) == {"good", other.standing.name}


def test_recall_on_other_data_says_which(capsys: pytest.CaptureFixture[str]) -> None:
    ours, theirs = contender("ours", 10, 0.9), contender("theirs", 10, 0.9, data="coco, 5 texts", data_sha256="2" * 64)
    print_contest(Contest((ours,), ()))
    assert "judged on" not in capsys.readouterr().out
    print_contest(Contest((ours, theirs), ()))
    assert [line.rstrip().endswith("texts") for line in capsys.readouterr().out.splitlines()] == [False, True, True]
    page = comparison_page(Contest((ours, theirs), ()))
    assert "judged on emoji, 9 texts" in page and "judged on coco, 5 texts" in page


def test_beating_is_an_order(rng: Any) -> None:
    """Nobody beats himself, no two beat each other, and who beats the winner beats the loser."""
    found = [
        contender(str(i), int(rng.integers(1, 5)), float(rng.integers(1, 5)), {HERE: float(rng.integers(1, 5))})
        for i in range(25)
    ]
    for a in found:
        assert not a.beats(a)
        for b in found:
            assert not (a.beats(b) and b.beats(a))
            assert all(a.beats(c) for c in found if a.beats(b) and b.beats(c))
    assert fronts(*found)


def test_the_command_compares_runs_and_says_what_it_did_not(
    verify_evidence: Artifact, bench_evidence: Artifact, onnx_int8_bundle: Artifact, tmp_path: Path
) -> None:
    """One run that was timed, and one that was not."""
    for folder, evidence in (
        ("one", (verify_evidence, bench_evidence)),
        ("two", (copy_for(verify_evidence, tmp_path),)),
    ):
        for found in evidence:
            shutil.copytree(found.root, tmp_path / folder / found.name)
    shutil.copytree(onnx_int8_bundle.root, tmp_path / "one" / onnx_int8_bundle.name)
    page = tmp_path / "compare.html"
    result = run("compare", tmp_path / "one", tmp_path / "two", "--json", "--out", page)
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    timed, other = sorted(found["contenders"], key=lambda row: not row["latency"])
    assert timed["artifact"] == f"one/{onnx_int8_bundle.name}" and timed["artifact_sha256"] == onnx_int8_bundle.digest
    assert other["artifact"] == "f" * 12 and not other["latency"]
    assert timed["front"] and other["front"]
    assert any("not timed on the same machine" in note for note in found["notes"])
    parser = Balance()
    parser.feed(page.read_text("utf-8"))
    assert parser.open == [] and "<svg" in page.read_text("utf-8")
    shown = run("compare", tmp_path / "one", tmp_path / "two")
    assert shown.stdout.count("*") == 2 and "note: latency of" in shown.stdout
    assert run("compare", tmp_path / "one", "--out", page).exit_code == 1
    assert "no verification" in run("compare", onnx_int8_bundle.root).stderr


def copy_for(evidence: Artifact, folder: Path) -> Artifact:
    """The same evidence of another bundle, with a median that takes no sample."""
    other = "f" * 64
    report = read(evidence, "verify.json") | {"artifact_sha256": other}
    with new_artifact(folder / "other-verify") as draft:
        (draft.path / "verify.json").write_text(json.dumps(report), "utf-8")
        return draft.finish(
            kind="evidence",
            stage="verify",
            config={},
            parents={**evidence.manifest.parents, "artifact": other},
            target=evidence.manifest.target,
        )


def test_nothing_is_compared_without_evidence(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no verification; expected some; run dmedge verify"):
        compare_folders([tmp_path])
    with pytest.raises(ArtifactError, match="no such directory"):
        compare_folders([tmp_path / "nowhere"])
    assert run("compare").exit_code == 2


def test_the_page_of_bundles_that_decide_has_no_chart() -> None:
    deciding = contender("deciding", 10, 0.5)
    deciding = replace(deciding, standing=replace(deciding.standing, recall_at_10=None, worst_language=None))
    page = comparison_page(Contest((deciding,), ("a note",)))
    assert "<svg" not in page and "on the front" in page and "a note." in page
