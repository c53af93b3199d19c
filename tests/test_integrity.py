"""Whatever is wrong with the files of a bundle, every command that reads one says so, exits with 1 and runs nothing."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from dmedge.artifact import Artifact, Program, TensorSpec, load_artifact, new_artifact
from dmedge.cli.main import cli
from dmedge.errors import ArtifactError
from dmedge.external_data import find_external_data
from dmedge.runtime.worker_session import WorkerSession
from tests.forged import forge

onnx: Any = pytest.importorskip("onnx")

COMMANDS = {
    "info": ["info", "BUNDLE"],
    "verify": ["verify", "BUNDLE"],
    "bench": ["bench", "BUNDLE"],
    "search": ["search", "BUNDLE", "red"],
    "conform": ["conform", "BUNDLE"],
    "eval": ["eval", "BUNDLE"],
}
NAMES = ("encode_image", "encode_text")


def write_model(path: Path, external: str | None = None, *, inside: str = "initializer") -> None:
    """A small ONNX model, whose weight may lie in another file."""
    weight = onnx.helper.make_tensor("weight", onnx.TensorProto.FLOAT, [2], [1.0, 2.0])
    if external is not None:
        weight = onnx.TensorProto(name="weight", data_type=onnx.TensorProto.FLOAT, dims=[2], data_location=1)
        for key, value in (("offset", "0"), ("location", external), ("length", "8")):
            weight.external_data.add(key=key, value=value)
    x = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [2])
    y = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [2])
    if inside == "initializer":
        nodes, weights = [onnx.helper.make_node("Add", ["x", "weight"], ["y"])], [weight]
    else:
        constant = onnx.helper.make_node("Constant", [], ["weight"], value=weight)
        nodes, weights = [constant, onnx.helper.make_node("Add", ["x", "weight"], ["y"])], []
    graph = onnx.helper.make_graph(nodes, "g", [x], [y], weights)
    if inside == "branch":
        flag = onnx.helper.make_tensor("flag", onnx.TensorProto.BOOL, [], [True])
        below = onnx.helper.make_graph(nodes, "below", [], [y], [])
        choose = onnx.helper.make_node("If", ["flag"], ["y"], then_branch=below, else_branch=below)
        graph = onnx.helper.make_graph([choose], "g", [x], [y], [flag])
    path.write_bytes(
        onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)]).SerializeToString()
    )


def make_bundle(out: Path, external: str | None = None, **options: Any) -> Artifact:
    x, y = TensorSpec("x", (2,), "float32"), TensorSpec("y", (2,), "float32")
    with new_artifact(out) as draft:
        (draft.path / "programs").mkdir()
        for name in NAMES:
            write_model(draft.path / f"programs/{name}.onnx", external, **options)
        (draft.path / "programs/weights.bin").write_bytes(bytes(8))
        with (draft.path / "programs/encode_text.onnx").open("ab") as stream:
            stream.write(b"\x1a\x04text")  # a producer version, so that the two differ
        programs = [Program(name, f"programs/{name}.onnx", "onnxruntime", (x,), (y,)) for name in NAMES]
        return draft.finish(
            kind="bundle", stage="export", config={}, programs=programs, target="linux-x86_64", tools={}
        )


def _flip(root: Path) -> None:
    path = root / "programs/weights.bin"
    path.write_bytes(b"\x01" + path.read_bytes()[1:])


def _truncate(root: Path) -> None:
    path = root / "programs/encode_text.onnx"
    path.write_bytes(path.read_bytes()[:-3])


def _link_file(root: Path) -> None:
    path = root / "programs/weights.bin"
    path.rename(root.parent / "weights.bin")
    path.symlink_to(root.parent / "weights.bin")


def _link_folder(root: Path) -> None:
    (root / "programs").rename(root.parent / "programs")
    (root / "programs").symlink_to(root.parent / "programs")


def _swap(root: Path) -> None:
    a, b = (root / f"programs/{name}.onnx" for name in NAMES)
    content = a.read_bytes()
    a.write_bytes(b.read_bytes())
    b.write_bytes(content)


def _escape(root: Path) -> None:
    (root.parent / "outside.bin").write_bytes(b"")
    forge(root, files={"../outside.bin": {"size_bytes": 0, "sha256": hashlib.sha256(b"").hexdigest()}})


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "changed byte": (_flip, "weights.bin: sha256"),
    "truncated": (_truncate, "encode_text.onnx: "),
    "missing": (lambda root: (root / "programs/encode_text.onnx").unlink(), "encode_text.onnx: missing"),
    "unexpected": (lambda root: (root / "programs/extra.so").write_bytes(b""), "extra.so: not named in the manifest"),
    "linked file": (_link_file, "weights.bin: a link or special file"),
    "linked folder": (_link_folder, "programs: a link or special file"),
    "path escape": (_escape, "unsafe file name '../outside.bin'"),
    "swapped programs": (_swap, ".onnx: "),
    "other manifest": (lambda root: (root / "manifest.json").write_text("{"), "manifest.json: not JSON"),
}


@pytest.fixture
def _nothing_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        pytest.fail("a program was loaded from a damaged bundle")

    monkeypatch.setattr(WorkerSession, "__init__", refuse)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")


@pytest.mark.usefixtures("_nothing_runs")
@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_refuses_a_damaged_bundle(command: str, damage: str, tmp_path: Path) -> None:
    root = make_bundle(tmp_path / "bundle").root
    change, message = DAMAGES[damage]
    change(root)
    done = CliRunner().invoke(cli, [str(root) if word == "BUNDLE" else word for word in COMMANDS[command]])
    assert done.exit_code == 1, done.output
    assert done.stderr.startswith("error: ") and message in done.stderr
    assert not list(Path().iterdir())


OUTSIDE = ["../../secret.bin", "/etc/passwd", "../weights.bin", "other.bin", "a/../../x", "./../programs/weights.bin"]


@pytest.mark.usefixtures("_nothing_runs")
@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_refuses_weights_outside_of_the_bundle(command: str, tmp_path: Path) -> None:
    (tmp_path / "secret.bin").write_bytes(bytes(8))
    root = make_bundle(tmp_path / "bundle", "../../secret.bin").root
    done = CliRunner().invoke(cli, [str(root) if word == "BUNDLE" else word for word in COMMANDS[command]])
    assert done.exit_code == 1
    assert "encode_image.onnx: its weights lie in '../../secret.bin', outside of the bundle" in done.stderr


@pytest.mark.parametrize("inside", ["initializer", "constant", "branch"])
@pytest.mark.parametrize("location", OUTSIDE)
def test_weights_may_hide_nowhere(location: str, inside: str, tmp_path: Path) -> None:
    root = make_bundle(tmp_path / "bundle", location, inside=inside).root
    with pytest.raises(ArtifactError, match="its weights lie in"):
        load_artifact(root)


def test_weights_in_a_file_of_the_bundle_are_fine(tmp_path: Path) -> None:
    load_artifact(make_bundle(tmp_path / "bundle", "weights.bin").root)


@pytest.mark.parametrize("content", [b"\x0b", b"\x3a\xff\x01x", b"\x80" * 11, b"ORTM"], ids=range(4))
def test_what_is_no_protobuf_is_refused(content: bytes, tmp_path: Path) -> None:
    with pytest.raises((ValueError, IndexError)):
        list(find_external_data(content))
    root = make_bundle(tmp_path / "bundle").root
    path = root / "programs/encode_image.onnx"
    path.write_bytes(content)
    files = json.loads((root / "manifest.json").read_text())["files"]
    files["programs/encode_image.onnx"] = {
        "size_bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    forge(root, files=files)
    with pytest.raises(ArtifactError, match="encode_image.onnx: cannot be read as ONNX"):
        load_artifact(root)
