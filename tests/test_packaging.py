"""What is in the tree is in the wheel, and what pyproject.toml promises is true."""

import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from fnmatch import fnmatch
from pathlib import Path

import pytest

from dmedge.environment import PACKAGES

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
SETUPTOOLS = PROJECT["tool"]["setuptools"]
STAGES = ("training", "compress", "export")


def folder_of(package: str) -> Path:
    """Where a package really lies: setuptools' package-dir, resolved without the links."""
    mapping: dict[str, str] = SETUPTOOLS["package-dir"]
    return ROOT / mapping.get(package, package.replace(".", "/"))


def requirements() -> dict[str, set[str]]:
    """Extra ("" for core) -> names required."""
    tables = {"": PROJECT["project"]["dependencies"], **PROJECT["project"]["optional-dependencies"]}
    return {extra: {re.split(r"[^\w-]", line, maxsplit=1)[0] for line in lines} for extra, lines in tables.items()}


def test_every_folder_with_code_is_listed() -> None:
    listed = {folder_of(package) for package in SETUPTOOLS["packages"]}
    found = {path.parent for top in ("dmedge", *STAGES, "apps") for path in (ROOT / top).rglob("__init__.py")}
    found = {folder for folder in found if not (folder.parent == ROOT / "dmedge" and folder.is_symlink())}
    assert found == listed


def test_every_folder_of_python_files_is_a_package() -> None:
    for top in ("dmedge", *STAGES):
        for path in (ROOT / top).rglob("*.py"):
            assert (path.parent / "__init__.py").is_file() or "native" in path.parts, path


@pytest.mark.parametrize("stage", [*STAGES, "apps"])
def test_links_are_relative_and_resolve(stage: str) -> None:
    link = ROOT / "dmedge" / stage
    assert link.is_symlink()
    assert link.readlink() == Path("..") / stage
    assert link.resolve() == ROOT / stage


def test_every_data_file_is_matched_by_package_data() -> None:
    folders = ("dmedge", *STAGES, *(f"apps/{name}" for name in ("web", "linux-arm64", "android", "ios")))
    tracked = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", *folders],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    globs = [
        f"{folder_of(package).relative_to(ROOT)}/{glob}".replace("**", "*")
        for package, package_globs in SETUPTOOLS["package-data"].items()
        for glob in package_globs
    ]
    data = [name for name in tracked if not name.endswith(".py") and not (ROOT / name).is_symlink()]
    assert "dmedge/py.typed" in data
    assert [name for name in data if not any(fnmatch(name, glob) for glob in globs)] == []


@pytest.mark.parametrize(
    "name",
    [
        *("torch", "transformers", "accelerate", "optimum", "onnx", "onnxruntime", "executorch"),
        *("sentencepiece", "neural-compressor", "torchao", "safetensors"),
    ],
)
def test_the_named_packages_are_dependencies(name: str) -> None:
    assert any(name in names for names in requirements().values())


def test_doctor_knows_every_dependency_by_its_extra() -> None:
    for name, extra in PACKAGES.items():
        assert name in requirements()[extra], name
    telling = set().union(*(requirements()[extra] for extra in ("train", "compress", "executorch", "onnx")))
    assert telling - {"pyarrow"} <= set(PACKAGES)


def test_core_stays_light() -> None:
    core = {"click", "rich", "numpy", "pillow", "sentencepiece", "safetensors", "onnxruntime"}
    assert requirements()[""] == core


def test_no_dependency_loads_badly_beside_torch() -> None:
    assert not {"torchvision", "timm"} & set().union(*requirements().values())


def test_constraints_are_public_versions() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert [line for line in pins if not re.fullmatch(r"[a-z0-9-]+==[0-9][\w.]*", line)] == []
    pinned = {line.partition("==")[0] for line in pins}
    assert set().union(*requirements().values()) - {"resvg_py", "dmedge"} <= pinned
    assert "torch==2.13.0" in pins


@pytest.mark.slow
def test_wheel_holds_code_licences_and_data(tmp_path: Path) -> None:
    ignored = shutil.ignore_patterns(".*", "runs", "build", "dist", "*.egg-info", "__pycache__")
    source = shutil.copytree(ROOT, tmp_path / "source", symlinks=True, ignore=ignored)
    build = ["-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(tmp_path)]
    subprocess.run([sys.executable, *build, str(source)], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("dmedge-*.whl")
    assert wheel.stat().st_size < 25_000_000
    names = zipfile.ZipFile(wheel).namelist()
    for package in SETUPTOOLS["packages"]:
        assert f"{package.replace('.', '/')}/__init__.py" in names
    assert "dmedge/py.typed" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert any(name.startswith("dmedge/recipes/") for name in names)
    assert {"dmedge/apps/web/index.html", "dmedge/apps/web/engine.mjs", "dmedge/apps/web/icons/icon.svg"} <= set(names)
    assert "dmedge/apps/android/core/src/main/kotlin/dmedge/Tokenizer.kt" in names
    assert "dmedge/apps/ios/Sources/DmedgeCore/Tokenizer.swift" in names
    assert any(name.startswith("dmedge/data/pack/") and "licen" in name.lower() for name in names)
    assert not [name for name in names if name.startswith(("tests", *STAGES))]
