"""Manifests that were changed by someone who knows the format."""

import hashlib
import json
from pathlib import Path

from dmedge.manifest import canonical_json


def forge(root: Path, **changes: object) -> None:
    """Change fields of a manifest and put the digest right, as someone who knows the format could."""
    table = json.loads((root / "manifest.json").read_text())
    del table["digest"]
    table |= changes
    table["digest"] = hashlib.sha256(canonical_json(table)).hexdigest()
    text = json.dumps(table, sort_keys=True, indent=2, ensure_ascii=False) + "\n"
    (root / "manifest.json").write_text(text, encoding="utf-8")
