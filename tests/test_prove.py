"""The fp32 twin of a bundle: exported once, kept, and never confused with another."""

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from dmedge.artifact import Artifact, new_artifact
from dmedge.environment import tool_versions
from dmedge.errors import ArtifactError, DataError, DmedgeError
from dmedge.export import bundle as export_module
from dmedge.flow.prove import (
    BenchConfig,
    VerifyConfig,
    bench,
    dropped_languages,
    find_accuracy,
    verify,
    without_languages,
)
from dmedge.flow.twins import TwinsAhead, fp32_twin, make_twin
from dmedge.manifest import Kind, Program, Runtime
from tests.proven_bundles import pictures
from tests.tiny_bundles import CONFIG, write_checkpoint
from tests.tiny_training import tiny_evalset

__all__ = ["pictures"]  # a fixture


def make(
    out: Path, *parents: Artifact, kind: Kind = "bundle", target: str | None = None, scheme: str = "float32"
) -> Artifact:
    with new_artifact(out) as draft:
        name = out.name.encode()
        (draft.path / "content.bin").write_bytes(bytes([0x12, len(name)]) + name)  # ONNX: a producer, and no graph
        runtime: Runtime = "onnxruntime" if target == "linux-x86_64" else "executorch"
        programs = [Program("encode_text", "content.bin", runtime, (), ())] if kind == "bundle" else []
        roles = {f"role{i}": parent.digest for i, parent in enumerate(parents)}
        return draft.finish(
            kind=kind,
            stage="test",
            config={},
            parents=roles,
            programs=programs,
            precision={"*": scheme},
            target=target,
            tools=tool_versions(),
        )


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Replace the exporter by one that only notes what it was asked for."""
    notes: list[str] = []

    def export_bundle(parent: Artifact, config: export_module.ExportConfig, out: Path) -> Artifact:
        notes.append(f"{parent.name} for {config.target}")
        return make(out, parent, target=config.target)

    monkeypatch.setattr(export_module, "export_bundle", export_bundle)
    return notes


@pytest.fixture
def baseline(tmp_path: Path) -> Artifact:
    return make(tmp_path / "baseline", kind="checkpoint")


def test_the_twin_is_exported_once_per_target(baseline: Artifact, tmp_path: Path, exported: list[str]) -> None:
    bundles = [
        make(tmp_path / name, baseline, target=name, scheme="int8_dynamic") for name in ("android", "linux-x86_64")
    ]
    twins = [fp32_twin(baseline, bundle, tmp_path / ".cache") for bundle in (*bundles, *bundles)]
    assert exported == ["baseline for android", "baseline for linux-x86_64"]
    assert twins[0].digest == twins[2].digest != twins[1].digest


def test_an_fp32_bundle_is_its_own_twin(baseline: Artifact, tmp_path: Path, exported: list[str]) -> None:
    bundle = make(tmp_path / "android", baseline, target="android")
    assert fp32_twin(baseline, bundle, tmp_path / ".cache").digest == bundle.digest
    assert exported == []


def test_a_twin_that_stands_beside_the_baseline_is_taken(
    baseline: Artifact, tmp_path: Path, exported: list[str]
) -> None:
    beside = make(tmp_path / "fp32", baseline, target="android")
    make(tmp_path / "stranger", target="android")
    bundle = make(tmp_path / "int8", baseline, target="android", scheme="int8_rows")
    assert fp32_twin(baseline, bundle, tmp_path / ".cache").digest == beside.digest
    assert exported == []


def test_whoever_comes_second_waits_and_takes_what_the_first_made(
    baseline: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Path] = []

    def export_bundle(parent: Artifact, config: export_module.ExportConfig, out: Path) -> Artifact:
        made.append(out)
        time.sleep(0.3)  # the other comes meanwhile
        return make(out, parent, target=config.target)

    monkeypatch.setattr(export_module, "export_bundle", export_bundle)
    with ThreadPoolExecutor(2) as pool:
        twins = list(pool.map(lambda _: make_twin(baseline, "android", "executorch", tmp_path / ".cache"), range(2)))
    assert len(made) == 1 and twins[0].digest == twins[1].digest


@pytest.mark.slow
def test_a_twin_made_ahead_is_the_one_that_is_taken(tmp_path: Path, exported: list[str]) -> None:
    checkpoint = write_checkpoint(tmp_path / "checkpoint", replace(CONFIG, text="bag", fusion="none"))
    cache = tmp_path / "other" / ".cache"
    with closing(TwinsAhead(checkpoint, [("linux-x86_64", "onnxruntime")], cache)) as ahead:
        ahead.wait()
    twin = make_twin(checkpoint, "linux-x86_64", "onnxruntime", cache)
    assert exported == [] and twin.manifest.parents == {"parent": checkpoint.digest}


def test_a_bundle_without_target_has_no_twin(baseline: Artifact, tmp_path: Path, exported: list[str]) -> None:
    with pytest.raises(ArtifactError, match="names no target"):
        fp32_twin(baseline, make(tmp_path / "lost", baseline, scheme="int8_rows"), tmp_path / ".cache")


def test_nothing_is_exported_for_a_place_that_is_taken(baseline: Artifact, tmp_path: Path, exported: list[str]) -> None:
    bundle = make(tmp_path / "android", baseline, target="android", scheme="int8_rows")
    with pytest.raises(ArtifactError, match="exists already"):
        verify(bundle, VerifyConfig(), tmp_path, baseline=baseline)
    with pytest.raises(ArtifactError, match="exists already"):
        bench(bundle, BenchConfig(), tmp_path, baseline=baseline)
    with pytest.raises(ArtifactError, match="expected a bundle for browsers"):
        bench(bundle, BenchConfig(device="web"), tmp_path / "out", baseline=baseline)
    assert exported == []


def test_nothing_is_exported_for_a_device_that_is_not_reached(
    baseline: Artifact, tmp_path: Path, exported: list[str], pictures: Path
) -> None:
    bundle = make(tmp_path / "board", baseline, target="linux-x86_64", scheme="int8_rows")
    config = BenchConfig(device="ssh:nobody@127.0.0.1:9", data=str(pictures), roofline=True)
    with pytest.raises(
        DmedgeError, match=r"ssh:nobody@127.0.0.1:9: ssh ended with exit status 255 and said: .*refused"
    ):
        bench(bundle, config, tmp_path / "out", baseline=baseline)
    assert exported == [] and not (tmp_path / "out").exists()


def test_accuracy_is_that_of_the_same_bundle(baseline: Artifact, tmp_path: Path) -> None:
    bundle = make(tmp_path / "android", baseline, target="android", scheme="int8_rows")
    assert find_accuracy(bundle) is None
    with new_artifact(tmp_path / "verify") as draft:
        (draft.path / "verify.json").write_text("{}")
        draft.finish(
            kind="evidence",
            stage="verify",
            config={},
            parents={"artifact": bundle.digest},
            summary={"verdict": "pass", "recall_at_10": 0.5},
        )
    found = find_accuracy(bundle)
    assert found is not None
    assert (found["verdict"], found["recall_at_10"]) == ("pass", 0.5)
    assert find_accuracy(make(tmp_path / "other", baseline)) is None


# Languages that compression gave up


def speaking(out: Path, *languages: str) -> Artifact:
    with new_artifact(out) as draft:
        (draft.path / "content.bin").write_bytes(b"content")
        return draft.finish(kind="bundle", stage="test", config={}, languages=languages)


def test_languages_that_the_bundle_gave_up_are_left_out(tmp_path: Path) -> None:
    bundle, baseline = speaking(tmp_path / "a", "aa", "bb"), speaking(tmp_path / "b", "aa", "bb", "cc")
    dropped = dropped_languages(bundle, baseline)
    assert dropped == {"cc"}
    data = tiny_evalset()
    rest = without_languages(data, dropped)
    assert set(rest.languages) == {"aa", "bb"}
    assert len(rest.images) == len(data.images)  # the gallery stays whole
    assert set(rest.texts) < set(data.texts)


def test_a_bundle_that_gave_up_nothing_is_judged_by_everything(tmp_path: Path) -> None:
    whole = speaking(tmp_path / "a", "aa", "bb")
    data = tiny_evalset()
    assert without_languages(data, dropped_languages(whole, whole)) is data


def test_data_in_lost_languages_alone_is_refused() -> None:
    with pytest.raises(
        DataError, match="has text only in aa, bb, cc, which the bundle gave up; expected one of its own"
    ):
        without_languages(tiny_evalset(), {"aa", "bb", "cc"})
