"""An artifact loads exactly as it was written, or says what is wrong; a draft that fails leaves nothing."""

import errno
import hashlib
import json
import os
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest

from dmedge.artifact import (
    Draft,
    Program,
    TensorSpec,
    download_bytes,
    find_artifacts,
    load_artifact,
    new_artifact,
    newest_artifact,
    program_bytes,
)
from dmedge.errors import ArtifactError
from dmedge.lineage import trace_lineage
from dmedge.manifest import is_safe_name, read_manifest
from tests.conftest import MakeArtifact
from tests.forged import forge

PROGRAM = Program(
    "encode_text",
    "programs/model.pte",
    "executorch",
    inputs=(TensorSpec("ids", (1, "length"), "int32", (0, 63)),),
    outputs=(TensorSpec("embedding", (1, 8), "float32"),),
)


def finish_bundle(draft: Draft) -> Any:
    (draft.path / "programs").mkdir()
    (draft.path / "programs/model.pte").write_bytes(b"pte" * 100)
    (draft.path / "labels.json").write_text("[]")
    return draft.finish(
        kind="bundle",
        stage="export",
        config={"target": "android", "sizes": (48, 64)},
        parents={"parent": "0" * 64},
        programs=[PROGRAM],
        precision={"text.blocks.0": "int8-dynamic"},
        languages=("de", "ja"),
        summary={"recall_at_10": 0.5},
        target="android",
    )


def test_loads_as_it_was_finished(tmp_path: Path) -> None:
    with new_artifact(tmp_path / "deep" / "bundle") as draft:
        artifact = finish_bundle(draft)
    assert load_artifact(tmp_path / "deep" / "bundle", kind="bundle") == artifact
    assert artifact.manifest.programs[0].inputs[0].shape == (1, "length")
    assert artifact.manifest.config == {"target": "android", "sizes": [48, 64]}
    assert artifact.file("programs/model.pte").read_bytes() == b"pte" * 100
    assert artifact.sibling("int8") == tmp_path / "deep" / "bundle-int8"
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["bundle"]


def test_digest_knows_neither_place_nor_time(tmp_path: Path) -> None:
    digests = []
    for name in ("a", "b/c"):
        with new_artifact(tmp_path / name) as draft:
            digests.append(finish_bundle(draft).digest)
    moved = shutil.move(tmp_path / "a", tmp_path / "moved")
    assert digests[0] == digests[1] == load_artifact(moved).digest


def test_recorded_digest_is_that_of_the_canonical_json(make_artifact: MakeArtifact) -> None:
    artifact = make_artifact("a")
    table = json.loads((artifact.root / "manifest.json").read_text())
    digest = table.pop("digest")
    text = json.dumps(table, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert digest == hashlib.sha256(text.encode()).hexdigest() == artifact.digest


def test_any_changed_byte_is_refused(tmp_path: Path) -> None:
    with new_artifact(tmp_path / "bundle") as draft:
        artifact = finish_bundle(draft)
    for path in sorted(path for path in artifact.root.rglob("*") if path.is_file()):
        content = path.read_bytes()
        for position in range(0, len(content), 37):
            path.write_bytes(content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :])
            with pytest.raises(ArtifactError):
                load_artifact(artifact.root)
        path.write_bytes(content)
    load_artifact(artifact.root)


def test_manifest_with_other_spaces_is_refused(make_artifact: MakeArtifact) -> None:
    path = make_artifact("a").root / "manifest.json"
    path.write_bytes(path.read_bytes().replace(b"  ", b"\t", 1))
    with pytest.raises(ArtifactError, match="was changed"):
        load_artifact(path.parent)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9], ids=["empty", "third", "nearly-whole"])
def test_truncated_manifest_says_so(make_artifact: MakeArtifact, share: float) -> None:
    path = make_artifact("a").root / "manifest.json"
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ArtifactError, match="manifest.json: not JSON .*truncated"):
        load_artifact(path.parent)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff\xfe", "not JSON"),
        (b"[]", "holds list; expected a JSON object"),
        (b"[" * 100_000, "not JSON"),
        (b"{}", "schema_version None; expected 1"),
        (b'{"schema_version": 1}', "missing key 'kind'"),
    ],
    ids=["not-utf8", "array", "too-deep", "empty-object", "no-fields"],
)
def test_invalid_manifest_is_refused(make_artifact: MakeArtifact, content: bytes, message: str) -> None:
    path = make_artifact("a").root / "manifest.json"
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match=message):
        load_artifact(path.parent)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "bundel"}, "manifest.kind: 'bundel'; did you mean 'bundle'"),
        ({"schema_version": 2}, "schema_version 2; expected 1"),
        ({"languages": "de"}, "manifest.languages: found 'de'; expected an array"),
        ({"files": {"../escape": {"size_bytes": 1, "sha256": "0"}}}, "unsafe file name '../escape'"),
        ({"files": {"/etc/passwd": {"size_bytes": 1, "sha256": "0"}}}, "unsafe file name '/etc/passwd'"),
        ({"files": {}}, "weights.bin: not named in the manifest"),
        ({"surprise": 1}, "unknown key 'surprise'"),
    ],
    ids=["kind", "schema", "type", "traversal", "absolute", "unnamed-file", "unknown-key"],
)
def test_forged_manifest_is_refused(make_artifact: MakeArtifact, changes: dict[str, object], message: str) -> None:
    root = make_artifact("a").root
    forge(root, **changes)
    with pytest.raises(ArtifactError, match=message):
        load_artifact(root)


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/../b", "/a", "a//b", "./a", "a\\b", "C:a", "a\nb", "manifest.json"], ids=repr
)
def test_unsafe_names(name: str) -> None:
    assert not is_safe_name(name)


@pytest.mark.parametrize("name", ["a", "a/b.c", ".hidden", "a..b", "größe/日本"], ids=repr)
def test_safe_names(name: str) -> None:
    assert is_safe_name(name)


def test_missing_and_unexpected_files_are_named(make_artifact: MakeArtifact) -> None:
    root = make_artifact("a", files={"x": b"1", "y": b"2"}).root
    (root / "extra").write_bytes(b"")
    with pytest.raises(ArtifactError, match="extra: not named in the manifest"):
        load_artifact(root)
    (root / "extra").unlink()
    (root / "x").unlink()
    with pytest.raises(ArtifactError, match="x: missing; expected 1 bytes"):
        load_artifact(root)


def test_links_are_refused_when_loading_and_when_writing(make_artifact: MakeArtifact, tmp_path: Path) -> None:
    root = make_artifact("a").root
    secret = tmp_path / "secret"
    secret.write_bytes(b"weights")  # the same content: only the link itself is wrong
    (root / "weights.bin").unlink()
    (root / "weights.bin").symlink_to(secret)
    with pytest.raises(ArtifactError, match="weights.bin: a link or special file"):
        load_artifact(root)
    with pytest.raises(ArtifactError, match="a link or special file"), new_artifact(tmp_path / "b") as draft:
        (draft.path / "x").symlink_to(secret)
        draft.finish(kind="checkpoint", stage="test", config={})
    assert not (tmp_path / "b").exists()


def test_linked_manifest_is_refused(make_artifact: MakeArtifact, tmp_path: Path) -> None:
    root = make_artifact("a").root
    (root / "manifest.json").rename(tmp_path / "elsewhere.json")
    (root / "manifest.json").symlink_to(tmp_path / "elsewhere.json")
    with pytest.raises(ArtifactError, match="symbolic link"):
        read_manifest(root)


def test_wrong_kind_says_what_to_run(make_artifact: MakeArtifact, tmp_path: Path) -> None:
    root = make_artifact("a", kind="checkpoint").root
    with pytest.raises(ArtifactError, match="found a checkpoint; expected a bundle; run dmedge export"):
        load_artifact(root, kind="bundle")
    with pytest.raises(ArtifactError, match="no such directory"):
        load_artifact(tmp_path / "nowhere")
    with pytest.raises(ArtifactError, match="expected a finished artifact"):
        load_artifact(tmp_path)


def test_existing_output_is_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(ArtifactError, match="exists already"), new_artifact(tmp_path / "out"):
        pytest.fail("the work began")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    with pytest.raises(ArtifactError, match="exists already"), new_artifact(tmp_path / "dangling"):
        pytest.fail("the work began")


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, RuntimeError, OSError], ids=lambda e: e.__name__)
def test_nothing_is_left_after(error: type[BaseException], tmp_path: Path) -> None:
    with pytest.raises(error), new_artifact(tmp_path / "runs" / "deep" / "out") as draft:
        (draft.path / "half").write_bytes(b"x")
        raise error
    assert list(tmp_path.iterdir()) == []


def test_leaving_without_finish_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    with new_artifact(tmp_path / "runs" / "out") as draft:
        (draft.path / "half").write_bytes(b"x")
    assert list(tmp_path.rglob("*")) == [tmp_path / "runs"]


def test_full_disk_says_so_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="disk is full; nothing was written"), new_artifact(tmp_path / "out"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert list(tmp_path.iterdir()) == []


def test_full_disk_while_finishing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ArtifactError, match="disk is full"), new_artifact(tmp_path / "out") as draft:
        finish_bundle(draft)
    assert list(tmp_path.iterdir()) == []


def test_output_below_a_file_cannot_be_created(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match="cannot be created"), new_artifact(tmp_path / "file" / "out"):
        pytest.fail("the work began")


@pytest.mark.parametrize("value", [float("nan"), Path("/tmp"), {1, 2}], ids=["nan", "path", "set"])
def test_config_must_be_plain(tmp_path: Path, value: object) -> None:
    with pytest.raises(ArtifactError, match="expected plain JSON"), new_artifact(tmp_path / "out") as draft:
        draft.finish(kind="checkpoint", stage="test", config={"value": value})


def test_program_must_name_a_file(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="names 'programs/model.pte'"), new_artifact(tmp_path / "out") as draft:
        draft.finish(kind="bundle", stage="test", config={}, programs=[PROGRAM])


def test_of_two_writers_one_wins(tmp_path: Path) -> None:
    barrier = threading.Barrier(2)
    outcomes: list[str] = []

    def write() -> None:
        try:
            with new_artifact(tmp_path / "out") as draft:
                (draft.path / "x").write_bytes(b"x")
                barrier.wait(timeout=30)
                draft.finish(kind="checkpoint", stage="test", config={})
            outcomes.append("won")
        except ArtifactError as error:
            outcomes.append(str(error))

    threads = [threading.Thread(target=write) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    won, lost = sorted(outcomes, key=len)
    assert won == "won"
    assert "exists since this one was begun" in lost
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    load_artifact(tmp_path / "out")


def test_newest_is_by_time_kind_and_consent(make_artifact: MakeArtifact, tmp_path: Path) -> None:
    for age, (name, kind) in enumerate([("new", "bundle"), ("demo/middle", "checkpoint"), ("old", "checkpoint")]):
        artifact = make_artifact(f"runs/{name}", kind=kind, config={"name": name})
        os.utime(artifact.root / "manifest.json", (1000 - age, 1000 - age))
    runs = tmp_path / "runs"
    shutil.copytree(runs / "new", runs / ".hidden.tmp-1")
    assert newest_artifact("checkpoint", root=runs).name == "middle"
    assert newest_artifact("checkpoint", root=runs, accept=lambda m: m.config["name"] == "old").name == "old"
    assert [path.name for path in find_artifacts(runs)] == ["new", "middle", "old"]
    with pytest.raises(ArtifactError, match="holds no fitting evidence; expected one; name one, or run dmedge verify"):
        newest_artifact("evidence", root=runs)
    with pytest.raises(ArtifactError, match="holds no fitting bundle"):
        newest_artifact("bundle", root=tmp_path / "nowhere")


def test_file_hints_at_the_near_name(make_artifact: MakeArtifact) -> None:
    with pytest.raises(ArtifactError, match="did you mean 'weights.bin'"):
        make_artifact("a").file("weight.bin")


def test_sizes(tmp_path: Path) -> None:
    with new_artifact(tmp_path / "bundle") as draft:
        artifact = finish_bundle(draft)
    assert program_bytes(artifact) == 300  # the one program; labels.json is none
    assert 0 < download_bytes(artifact) == download_bytes(artifact)
    noise = noise_bytes(10_000)
    with new_artifact(tmp_path / "noise") as draft:
        (draft.path / "noise").write_bytes(noise)
        artifact = draft.finish(kind="checkpoint", stage="test", config={})
    assert 10_000 < download_bytes(artifact) < 12_000  # noise does not shrink; names and manifest are under 2 kB


def noise_bytes(size: int) -> bytes:
    return b"".join(hashlib.sha256(str(i).encode()).digest() for i in range(size // 32 + 1))[:size]


def test_lineage_finds_parents_by_digest_only(make_artifact: MakeArtifact, tmp_path: Path) -> None:
    baseline = make_artifact("runs/baseline")
    small = make_artifact("runs/renamed", parents={"parent": baseline.digest}, config={"int8": True})
    bundle = make_artifact("runs/bundle", kind="bundle", parents={"parent": small.digest, "teacher": "f" * 64})
    (tmp_path / "runs" / "broken").mkdir()
    (tmp_path / "runs" / "broken" / "manifest.json").write_text("{")
    found = trace_lineage(bundle, places=())
    assert [(a.role, a.depth, a.root) for a in found] == [
        ("parent", 1, small.root),
        ("parent", 2, baseline.root),
        ("teacher", 1, None),
    ]


def test_a_shipped_artifact_is_found_by_its_name(
    make_artifact: MakeArtifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dmedge.artifact.SHIPPED", tmp_path / "shipped")
    monkeypatch.chdir(tmp_path)
    shipped = make_artifact("shipped/emoji", kind="checkpoint")
    assert load_artifact("emoji").digest == shipped.digest
    assert newest_artifact("checkpoint").digest == shipped.digest
    assert load_artifact("emoji").sibling("int8") == Path("runs/emoji-int8")


def test_a_directory_of_that_name_goes_before_the_shipped_one(
    make_artifact: MakeArtifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dmedge.artifact.SHIPPED", tmp_path / "shipped")
    monkeypatch.chdir(tmp_path)
    make_artifact("shipped/emoji", kind="checkpoint", files={"x": b"shipped"})
    own = make_artifact("emoji", kind="checkpoint", files={"x": b"own"})
    assert load_artifact("emoji").digest == own.digest
