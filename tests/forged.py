"""Artifacts that were changed by someone who knows the format."""

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from dmedge.artifact import Artifact, new_artifact
from dmedge.manifest import canonical_json
from dmedge.runtime.wire import Array

Change = Callable[[Array], Array]


def forge(root: Path, **changes: object) -> None:
    """Change fields of a manifest and put the digest right, as someone who knows the format could."""
    table = json.loads((root / "manifest.json").read_text())
    del table["digest"]
    table |= changes
    table["digest"] = hashlib.sha256(canonical_json(table)).hexdigest()
    text = json.dumps(table, sort_keys=True, indent=2, ensure_ascii=False) + "\n"
    (root / "manifest.json").write_text(text, encoding="utf-8")


def altered(
    artifact: Artifact,
    out: Path,
    change: Callable[[Path], object] = lambda root: None,
    precision: Mapping[str, str] | None = None,
    summary: Mapping[str, object] | None = None,
) -> Artifact:
    """A copy of a bundle or checkpoint with other files, plan or facts, and a manifest that vouches for it."""
    manifest = artifact.manifest
    with new_artifact(out) as draft:
        shutil.copytree(artifact.root, draft.path, dirs_exist_ok=True)
        (draft.path / "manifest.json").unlink()
        change(draft.path)
        return draft.finish(
            kind=manifest.kind,
            stage=manifest.stage,
            config=manifest.config,
            parents=manifest.parents,
            programs=manifest.programs,
            precision=precision or manifest.precision,
            summary={**manifest.summary, **(summary or {})},
            target=manifest.target,
        )


def tensor_changed(program: str, name: str, change: Change) -> Callable[[Path], None]:
    """Changes one tensor of an ONNX program."""

    def change_file(root: Path) -> None:
        import onnx

        path = root / "programs" / f"{program}.onnx"
        model = onnx.load(path)
        tensor = next(tensor for tensor in model.graph.initializer if tensor.name == f"model.{name}")
        content = np.ascontiguousarray(change(onnx.numpy_helper.to_array(tensor)))
        tensor.CopyFrom(onnx.numpy_helper.from_array(content, tensor.name))
        onnx.save(model, path)

    return change_file


def output_changed(program: str, output: str, operator: str, *more: float) -> Callable[[Path], None]:
    """Puts one operator behind an output of an ONNX program, which takes that output and a constant.

    Args:
        more: numbers of the constant; none for the output itself once more.
    """

    def change_file(root: Path) -> None:
        import onnx

        path = root / "programs" / f"{program}.onnx"
        model = onnx.load(path)
        inner = f"{output}_before"
        for node in model.graph.node:
            for names in (node.input, node.output):
                names[:] = [inner if name == output else name for name in names]
        constant = onnx.numpy_helper.from_array(np.array(more, np.float32), "constant")
        model.graph.initializer.append(constant)
        options = {"axis": -1} if operator == "Concat" else {}
        inputs = [inner, "constant" if more else inner]
        model.graph.node.append(onnx.helper.make_node(operator, inputs, [output], **options))
        (told,) = [value for value in model.graph.output if value.name == output]
        told.type.tensor_type.ClearField("shape")
        onnx.save(model, path)

    return change_file


def json_changed(name: str, **changes: object) -> Callable[[Path], None]:
    """Changes settings in a JSON file."""

    def change_file(root: Path) -> None:
        table = json.loads((root / name).read_text("utf-8"))
        (root / name).write_text(json.dumps(table | changes), "utf-8")

    return change_file
