"""The matrix fills every cell once, and says why one is refused."""

import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from dmedge.artifact import Artifact
from dmedge.errors import ExportError
from dmedge.export import bundle as bundle_module
from tests.tiny_bundles import CONFIG, write_checkpoint

SCRIPT = Path(__file__).parent.parent / "tools/matrix.py"


@pytest.fixture(scope="module")
def matrix() -> ModuleType:
    spec = importlib.util.spec_from_file_location("matrix", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["matrix"] = module  # where dataclasses look for their module
    spec.loader.exec_module(module)
    return module


def tiny(out: Path) -> Artifact:
    return write_checkpoint(out, replace(CONFIG, text="bag", fusion="none"))


@pytest.mark.slow
def test_a_cell_that_is_filled_is_kept(matrix: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matrix, "devices_of", lambda target, runtime: ("local",))
    cells = matrix.run_matrix(tmp_path, ["web"], {"tiny": tiny}, apart=False)
    assert [(cell.target, cell.engine, cell.verdict) for cell in cells] == [("web", "onnxruntime-web", "proven")]
    assert cells[0].max_error < 1e-4 and cells[0].program_bytes and cells[0].peak_rss_bytes and cells[0].seconds

    def refuse(*_: object) -> Artifact:
        raise ExportError("the loader cannot read it; expected | another")

    monkeypatch.setattr(bundle_module, "export_bundle", refuse)
    again = matrix.run_matrix(tmp_path, ["web"], {"tiny": tiny, "other": tiny}, apart=False)
    assert again[0] == matrix.Cell(**json.loads(json.dumps(matrix.asdict(cells[0]))))
    assert (again[1].verdict, again[1].reason) == ("refused", "the loader cannot read it; expected | another")
    rows = (tmp_path / "matrix.md").read_text(encoding="utf-8").splitlines()
    assert len(rows) == 4 and rows[2].startswith("| web | onnxruntime-web | tiny | ")
    assert "proven: local" in rows[2] and "refused: the loader cannot read it; expected \\| another" in rows[3]
    table: list[dict[str, Any]] = json.loads((tmp_path / "matrix.json").read_text(encoding="utf-8"))
    assert [row["checkpoint"] for row in table] == ["tiny", "other"]


def test_every_target_is_proven_somewhere(matrix: ModuleType) -> None:
    for target, facts in matrix.TARGETS.items():
        for runtime in facts.runtimes:
            assert "local" in matrix.devices_of(target, runtime)
    assert matrix.devices_of("android", "executorch") == ("local", "qemu:cortex-a53", "qemu:cortex-a76")
    assert matrix.devices_of("web", "onnxruntime") == ("local", "web")
    assert matrix.devices_of("ios", "coreml") == ("local",)
