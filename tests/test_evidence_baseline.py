"""Which baselines are found, and which are refused."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from dmedge.artifact import Artifact, new_artifact
from dmedge.errors import ArtifactError
from dmedge.evidence.baseline import check_baseline, find_baseline
from dmedge.manifest import Kind


def make(
    out: Path, parents: Mapping[str, Artifact] | None = None, *, kind: Kind = "checkpoint", scheme: str = "float32"
) -> Artifact:
    with new_artifact(out) as draft:
        (draft.path / "weights.bin").write_bytes(out.name.encode())
        digests = {role: artifact.digest for role, artifact in (parents or {}).items()}
        return draft.finish(kind=kind, stage="test", config={}, parents=digests, precision={"*": scheme})


@pytest.fixture
def line(tmp_path: Path) -> dict[str, Artifact]:
    """Teacher and baseline, a student of both, its int8 version, and a bundle."""
    found = {"teacher": make(tmp_path / "teacher"), "baseline": make(tmp_path / "baseline", scheme="float16")}
    found["student"] = make(tmp_path / "student", {"parent": found["baseline"], "teacher": found["teacher"]})
    found["int8"] = make(tmp_path / "int8", {"parent": found["student"]}, scheme="int8-dynamic")
    found["android"] = make(tmp_path / "android", {"checkpoint": found["int8"]}, kind="bundle", scheme="int8-dynamic")
    return found


def test_the_baseline_is_the_eldest_float_ancestor(line: dict[str, Artifact]) -> None:
    assert find_baseline(line["android"], ()).root == line["baseline"].root
    assert find_baseline(line["baseline"], ()).root == line["baseline"].root


def test_every_float_checkpoint_of_the_line_is_accepted(line: dict[str, Artifact]) -> None:
    for name in ("baseline", "student"):
        check_baseline(line["android"], line[name], ())


def test_a_quantized_baseline_is_refused(line: dict[str, Artifact]) -> None:
    with pytest.raises(ArtifactError, match=r"is quantized itself \(int8-dynamic\)"):
        check_baseline(line["android"], line["int8"], ())


def test_a_teacher_is_no_baseline(line: dict[str, Artifact]) -> None:
    with pytest.raises(ArtifactError, match="is not among the ancestors"):
        check_baseline(line["android"], line["teacher"], ())


def test_what_training_began_with_is_no_baseline(line: dict[str, Artifact], tmp_path: Path) -> None:
    trained = make(tmp_path / "trained", {"init": line["baseline"]})
    bundle = make(tmp_path / "bundle", {"parent": trained}, kind="bundle", scheme="int8-dynamic")
    assert find_baseline(bundle, ()).root == find_baseline(trained, ()).root == trained.root
    with pytest.raises(ArtifactError, match="is not among the ancestors"):
        check_baseline(bundle, line["baseline"], ())


def test_a_stranger_is_refused(line: dict[str, Artifact], tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="is not among the ancestors"):
        check_baseline(line["android"], make(tmp_path / "stranger", scheme="bfloat16"), ())


def test_a_bundle_is_no_baseline(line: dict[str, Artifact]) -> None:
    with pytest.raises(ArtifactError, match="found a bundle; expected the float checkpoint"):
        check_baseline(line["android"], line["android"], ())


def test_a_lost_parent_is_named(line: dict[str, Artifact], tmp_path: Path) -> None:
    lonely = make(tmp_path / "elsewhere" / "web", {"checkpoint": line["int8"]}, kind="bundle")
    with pytest.raises(ArtifactError, match=f"not found: checkpoint {line['int8'].digest[:12]}; name one"):
        find_baseline(lonely, ())
