"""Where an imported model comes from: a local folder or a name on the Hugging Face hub, its weights and licence."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dmedge.errors import DataError, require
from dmedge.files import digest_file

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
WANTED = ("*.json", "*.txt", "*.model", "README.md", WEIGHTS, "model-*.safetensors")  # no pickle, no other framework


@dataclass(frozen=True, slots=True)
class Source:
    """A checkpoint of transformers on this disk."""

    folder: Path
    name: str  # on the hub, or of the folder; never a path
    revision: str | None  # commit on the hub
    weights: Mapping[str, str]  # file -> sha256
    license: str | None  # as its model card says
    model_type: str  # as its config.json says

    def facts(self) -> dict[str, object]:
        """What a manifest says of it."""
        table = {"source": self.name, "revision": self.revision, "weights_sha256": dict(self.weights)}
        return {key: value for key, value in table.items() if value is not None}


def open_source(path_or_name: str | Path) -> Source:
    """Find a checkpoint; one on the hub is downloaded into the cache of huggingface_hub, unless it is there.

    Raises:
        DataError: there is none, or it has no weights as safetensors.
        DmedgeError: huggingface_hub is not installed.
    """
    folder, revision = Path(path_or_name), None
    if folder.is_dir():
        name = folder.resolve().name
    else:
        name = str(path_or_name)
        folder = _download(name)
        revision = folder.name
    try:
        kind = str(json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type"))
    except (OSError, ValueError, AttributeError) as error:
        raise DataError(
            f"{path_or_name}: no config.json that can be read ({error}); "
            "expected a folder that save_pretrained wrote; name one"
        ) from error
    weights = {file: digest_file(folder / file).sha256 for file in _weight_files(folder, name)}
    return Source(folder, name, revision, weights, _license(folder / "README.md"), kind)


def _download(name: str) -> Path:
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) or name.startswith("."):
        raise DataError(f"{name}: no such folder; expected one, or a name on the Hugging Face hub such as org/model")
    hub = require("huggingface_hub", "train")
    try:
        return Path(hub.snapshot_download(name, allow_patterns=list(WANTED), ignore_patterns=["*/*"]))
    except (OSError, ValueError) as error:  # what it raises for the network, the cache and the name derives from these
        reason = str(error).strip().split("\n")[0]
        raise DataError(
            f"{name}: no such folder here, and not found on the Hugging Face hub ({reason}); "
            "expected a folder or a name on the hub; check the name and the network"
        ) from error


def _weight_files(folder: Path, name: str) -> list[str]:
    if (folder / INDEX).is_file():
        table = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        return sorted(set(table["weight_map"].values()))
    if (folder / WEIGHTS).is_file():
        return [WEIGHTS]
    pickled = sorted(path.name for path in folder.glob("*.bin"))
    raise DataError(
        f"{name}: found {', '.join(pickled) or 'no weights'}; expected {WEIGHTS}, since pickled weights can run code; "
        "convert it: python -c \"from transformers import AutoModel, AutoProcessor as P; s, d = 'SOURCE', 'FOLDER'; "
        'AutoModel.from_pretrained(s).save_pretrained(d); P.from_pretrained(s).save_pretrained(d)"'
    )


def _license(card: Path) -> str | None:
    """The licence named in the front matter of a model card."""
    if not card.is_file():
        return None
    front = re.match(r"---\n(.*?)\n---", card.read_text(encoding="utf-8", errors="replace"), re.DOTALL)
    names = dict(re.findall(r"^(license|license_name):\s*([^\s#]+)", front.group(1), re.MULTILINE)) if front else {}
    found = names.get("license_name") if names.get("license") == "other" else names.get("license")
    return (found or names.get("license") or "").strip("'\"") or None
