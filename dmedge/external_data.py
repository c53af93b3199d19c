"""Where an ONNX file keeps weights outside of itself, read without the onnx package.

A tensor of an ONNX model may name another file, by any path, and a runtime maps that file into
memory. Digests do not cover it, so a bundle may name none but its own files. Only the few fields
that lead to tensors are followed; whatever else a model holds is skipped.

Source: onnx.proto3 of ONNX 1.19 (field numbers).
"""

from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

from dmedge.errors import ArtifactError
from dmedge.protobuf import byte_fields

# Message -> field number -> message below it, on the way from a model to the entries of external data.
_BELOW: Mapping[str, Mapping[int, str]] = {
    "Model": {7: "Graph", 20: "TrainingInfo", 25: "Function"},
    "TrainingInfo": {1: "Graph", 2: "Graph"},
    "Graph": {1: "Node", 5: "Tensor", 15: "SparseTensor"},
    "Function": {7: "Node", 11: "Attribute"},
    "Node": {5: "Attribute"},
    "Attribute": {5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph", 22: "SparseTensor", 23: "SparseTensor"},
    "SparseTensor": {1: "Tensor", 2: "Tensor"},
    "Tensor": {13: "Entry"},
}
_KEY, _VALUE = 1, 2  # of an entry


def check_external_data(root: Path, file: str, known: Mapping[str, object]) -> None:
    """Refuse an ONNX file whose weights lie in files that the manifest does not name.

    Args:
        root: of the bundle.
        file: the ONNX file, below `root`.
        known: the files of the manifest.

    Raises:
        ArtifactError: there are such weights, or the file is no ONNX model.
    """
    try:
        locations = set(find_external_data((root / file).read_bytes()))
    except (IndexError, ValueError) as error:
        raise ArtifactError(
            f"{root / file}: cannot be read as ONNX ({error}); expected a whole model; run dmedge export again"
        ) from error
    for location in sorted(locations):
        place = str(PurePosixPath(file).parent / location)
        if ".." in PurePosixPath(location).parts or place not in known:
            raise ArtifactError(
                f"{root / file}: its weights lie in {location!r}, outside of the bundle; "
                "expected them in the file itself or in one that the manifest names; run dmedge export again"
            )


def find_external_data(content: bytes) -> Iterator[str]:
    """Every location that a tensor of an ONNX model names.

    Raises:
        ValueError, IndexError: the bytes are no protobuf message.
    """
    yield from _walk(memoryview(content), "Model")


def _walk(content: memoryview, message: str) -> Iterator[str]:
    if message == "Entry":
        fields = {field: bytes(value).decode("utf-8", "replace") for field, value in byte_fields(content)}
        if fields.get(_KEY) == "location":
            yield fields.get(_VALUE, "")
        return
    for field, value in byte_fields(content):
        if field in _BELOW[message]:
            yield from _walk(value, _BELOW[message][field])
