"""Artifacts that were changed by someone who knows the format."""

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from dmedge.artifact import Artifact, new_artifact
from dmedge.manifest import canonical_json


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
            config={},
            parents=manifest.parents,
            programs=manifest.programs,
            precision=precision or manifest.precision,
            summary={**manifest.summary, **(summary or {})},
            target=manifest.target,
        )
