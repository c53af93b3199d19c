"""The C and C++ libraries of a runtime: from the package that is installed, or from its wheel for another processor."""

import base64
import csv
import hashlib
import io
import platform
import shutil
import subprocess
import sys
import tempfile
import zipfile
from fnmatch import fnmatch
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from dmedge.environment import cache_folder, package_version
from dmedge.errors import DmedgeError
from dmedge.manifest import Runtime

Machine = Literal["x86_64", "aarch64"]

# What is kept of a wheel: headers and libraries without Python.
KEPT = {
    "executorch": ("executorch/include/*", "executorch/lib/*.so"),
    "onnxruntime": ("onnxruntime/capi/libonnxruntime.so*",),
}
EXTRAS = {"executorch": "executorch", "onnxruntime": ""}
TIMEOUT_S = 300
_PLATFORMS = ("manylinux_2_28", "manylinux_2_27", "manylinux_2_17", "manylinux2014")  # what glibc of Debian 12 can load


def host_machine() -> Machine:
    """The processor of this machine.

    Raises:
        DmedgeError: native runners are not made for it.
    """
    problem = host_problem()
    if problem is not None:
        raise DmedgeError(f"this machine is {problem}; expected Linux on x86_64 or aarch64, for native runners")
    return "x86_64" if platform.machine() == "x86_64" else "aarch64"


def host_problem() -> str | None:
    """What this machine is, if native runners are not made for it."""
    system, machine = platform.system(), platform.machine()
    return None if system == "Linux" and machine in ("x86_64", "aarch64") else f"{system} {machine}"


def runtime_version(runtime: Runtime) -> str:
    """Version of the installed package, without a local part such as "+cpu".

    Raises:
        DmedgeError: it is not installed.
    """
    found = package_version(runtime)
    if found is None:
        extra = EXTRAS[runtime]
        command = f"pip install 'dmedge[{extra}]'" if extra else "pip install dmedge"
        raise DmedgeError(f"{runtime} is not installed, which decides the version of native runners; run {command}")
    return found.partition("+")[0]


def library_folder(runtime: Runtime, machine: Machine) -> Path:
    """Folder of the package `runtime` for `machine`, in the version that is installed here.

    The wheel for another processor is downloaded once, by pip, and kept in the cache folder.

    Raises:
        DmedgeError: it is not installed, or its wheel cannot be downloaded.
    """
    version = runtime_version(runtime)
    if machine == host_machine():
        spec = find_spec(runtime)
        assert spec is not None and spec.submodule_search_locations, runtime  # its version was found
        return Path(spec.submodule_search_locations[0])
    folder = cache_folder() / "wheels" / f"{runtime}-{version}-{machine}"
    if not folder.is_dir():
        _keep_wheel(runtime, version, machine, folder)
    return folder / runtime


def is_fetched(runtime: Runtime, machine: Machine) -> bool:
    """Whether `library_folder` needs no network."""
    name = f"{runtime}-{runtime_version(runtime)}-{machine}"
    return machine == host_machine() or (cache_folder() / "wheels" / name).is_dir()


def _keep_wheel(runtime: Runtime, version: str, machine: Machine, folder: Path) -> None:
    """Download, check and unpack a wheel; `folder` appears whole or not at all."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".part-") as part:
        wheel = _download(runtime, version, machine, Path(part))
        unpacked = Path(part) / "unpacked"
        unpack_wheel(wheel, unpacked, KEPT[runtime])
        try:
            unpacked.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process was quicker
                raise


def _download(runtime: Runtime, version: str, machine: Machine, folder: Path) -> Path:
    """The wheel, by pip, which compares it with the digest that the registry states."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--retries=1"]
    for name in _PLATFORMS:
        command += ["--platform", f"{name}_{machine}"]
    command += ["--implementation", "cp", "--python-version", f"{sys.version_info.major}.{sys.version_info.minor}"]
    advice = (
        f"expected its wheel for Linux on {machine}, which is needed once: "
        "connect this machine, or let PIP_FIND_LINKS name a folder with the wheel"
    )
    try:
        done = subprocess.run(
            [*command, "--dest", str(folder), f"{runtime}=={version}"],
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise DmedgeError(f"pip did not fetch {runtime} {version} in {TIMEOUT_S} s; {advice}") from error
    wheels = list(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        words = [line for line in done.stderr.splitlines() if line.strip()] or ["pip said nothing"]
        raise DmedgeError(f"pip cannot fetch {runtime} {version}: {words[-1]}; {advice}")
    return wheels[0]


def unpack_wheel(wheel: Path, folder: Path, patterns: tuple[str, ...]) -> None:
    """Unpack the files of a wheel that match, each compared with the sha256 in its RECORD.

    Raises:
        DmedgeError: the wheel is damaged, or holds nothing that matches.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            digests = _recorded_digests(archive)
            names = [name for name in digests if any(fnmatch(name, pattern) for pattern in patterns)]
            for name in names:
                content = archive.read(name)
                if _digest(content) != digests[name]:
                    raise DmedgeError(f"{wheel.name}: {name} is not what its RECORD says; fetch the wheel again")
                target = folder / name
                if not target.resolve().is_relative_to(folder.resolve()):
                    raise DmedgeError(f"{wheel.name}: unsafe file name {name!r}; fetch the wheel again")
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(content)
    except (zipfile.BadZipFile, KeyError, ValueError, OSError) as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise DmedgeError(f"{wheel.name}: {error}; expected a whole wheel; fetch it again") from error
    if not names:
        raise DmedgeError(f"{wheel.name}: holds no {' and no '.join(patterns)}; install another version of the package")


def _recorded_digests(archive: zipfile.ZipFile) -> dict[str, str]:
    """File -> sha256 as RECORD writes it: "sha256=" and URL-safe base64 without padding."""
    (record,) = [name for name in archive.namelist() if name.endswith(".dist-info/RECORD")]
    rows = csv.reader(io.StringIO(archive.read(record).decode("utf-8")))
    return {row[0]: row[1] for row in rows if row and row[1]}


def _digest(content: bytes) -> str:
    digest = hashlib.sha256(content).digest()
    return f"sha256={base64.urlsafe_b64encode(digest).rstrip(b'=').decode()}"
