"""The checks that prove the training engine on a GPU: here they take the same way on the CPU."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent
CHECKS = ["precision", "compile", "grad_cache", "gradient_checkpointing", "ddp", "fsdp", "resume"]


def gpu_check(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "tools" / "gpu_check.py"), *arguments]
    return subprocess.run(command, capture_output=True, check=False, text=True)


@pytest.mark.slow
@pytest.mark.thorough
def test_every_check_passes_on_the_cpu_and_tells_its_figures(tmp_path: Path) -> None:
    out = tmp_path / "gpu-check.json"
    done = gpu_check("--device", "cpu", "--out", str(out))
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(out.read_text(encoding="utf-8"))
    assert (report["device"], report["versions"]["torch"]) == ("cpu", torch.__version__)
    assert list(report["checks"]) == CHECKS
    assert {figures["verdict"] for figures in report["checks"].values()} == {"pass"}
    assert all(figures["seconds"] > 0 for figures in report["checks"].values())
    assert report["checks"]["compile"]["speed_ratio"] > 0
    assert report["checks"]["fsdp"]["processes"] == 2


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so_and_writes_nothing(tmp_path: Path) -> None:
    done = gpu_check("--out", str(tmp_path / "gpu-check.json"))
    assert done.returncode == 2
    assert "no CUDA GPU found; expected one; run this on a machine with a GPU, or with --device cpu" in done.stderr
    assert not list(tmp_path.iterdir())
