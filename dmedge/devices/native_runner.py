"""Native runners: small programs in C and C++ that run a bundle's programs without Python.

They are compiled where they are needed, from the sources in `native/`, against the libraries of the
installed runtimes, and kept by the digest of all that went in.
"""

import hashlib
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dmedge.devices.needs import Need, check_needs
from dmedge.devices.wheels import Machine, host_machine, library_folder, runtime_version
from dmedge.environment import cache_folder
from dmedge.errors import DmedgeError
from dmedge.manifest import Runtime

SOURCES = Path(__file__).parent / "native"
LIBRARIES = "lib"  # folder in the work directory; LD_LIBRARY_PATH names it
COMMAND = "./runner"

_HEADER = "runner.h"
_FILES = {"executorch": "executorch_runner.cpp", "onnxruntime": "onnx_runner.c"}
_FLAGS = ("-O2", "-Wall", "-Wextra", "-Wno-deprecated-declarations", "-Wno-unused-parameter")
_EXECUTORCH = ("executorch", "executorch_threadpool", "executorch_kernels_optimized", "executorch_kernels_quantized")
_XNNPACK = "executorch_backend_xnnpack"
_TIMEOUT_S = 600


@dataclass(frozen=True, slots=True)
class Sources:
    """A program in C or C++ that uses a runtime."""

    main: Path
    headers: tuple[Path, ...]  # of its own; a change of one compiles it again
    options: tuple[str, ...] = ()  # of the compiler, after those of all programs
    name: str = "runner"  # for messages


@dataclass(frozen=True, slots=True)
class NativeRunner:
    """A runner and the libraries beside it; `COMMAND` starts it in a folder that holds `files`."""

    runtime: Runtime
    version: str
    machine: Machine
    files: Mapping[str, Path]  # name in the work directory -> file on this machine


def compiler_needs(machine: Machine) -> tuple[Need, ...]:
    """What compiles runners for `machine` here."""
    if machine == host_machine():
        return (Need("g++", "g++"),)
    return (Need(f"{machine}-linux-gnu-g++", f"g++-{machine.replace('_', '-')}-linux-gnu"),)


def build_runner(runtime: Runtime, machine: Machine) -> NativeRunner:
    """The runner for one runtime and processor, compiled unless the cache folder holds it.

    Raises:
        DmedgeError: a compiler or a wheel is missing, or the sources do not compile.
    """
    if runtime not in _FILES:
        raise DmedgeError(f"no native runner for {runtime}; expected one of {', '.join(_FILES)}")
    return build_program(runtime, machine, Sources(SOURCES / _FILES[runtime], (SOURCES / _HEADER,)))


def build_program(runtime: Runtime, machine: Machine, sources: Sources) -> NativeRunner:
    """As `build_runner`, for a program of other sources, which is called "runner" all the same.

    Raises:
        DmedgeError: a compiler or a wheel is missing, or the sources do not compile.
    """
    check_needs(compiler_needs(machine))
    version, package = runtime_version(runtime), library_folder(runtime, machine)
    libraries = _libraries(runtime, package)
    compiler = compiler_needs(machine)[0].command
    command = [compiler, *_arguments(runtime, version, package, libraries, sources)]
    binary = cache_folder() / "runners" / f"{runtime}-{version}-{machine}-{_digest(sources, command)[:16]}"
    if not binary.is_file():
        _compile(command, binary, sources.name)
    files = {"runner": binary} | {f"{LIBRARIES}/{path.name}": path for path in libraries}
    return NativeRunner(runtime, version, machine, files)


def _libraries(runtime: Runtime, package: Path) -> list[Path]:
    if runtime == "executorch":
        return [package / f"lib/lib{name}.so" for name in (*_EXECUTORCH, _XNNPACK)]
    found = sorted(path for path in (package / "capi").glob("libonnxruntime.so.*") if path.is_file())
    if len(found) != 1:
        names = [path.name for path in found]
        raise DmedgeError(
            f"{package / 'capi'}: holds {names or 'no libonnxruntime.so'}; expected one; install it again"
        )
    return found


def _arguments(runtime: Runtime, version: str, package: Path, libraries: list[Path], sources: Sources) -> list[str]:
    """Of the compiler, all but the place of the result."""
    source, flags = str(sources.main), (*_FLAGS, *sources.options)
    if runtime == "onnxruntime":
        # -x c: the compilers are those of C++, which Debian needs for the other runner anyway.
        define = f'-DONNXRUNTIME_LIBRARY="{libraries[0].name}"'
        return ["-x", "c", "-std=gnu11", *flags, define, source, "-ldl"]
    include = package / "include"
    defines = ["-DC10_USING_CUSTOM_GENERATED_MACROS", "-DET_EVENT_TRACER_ENABLED", "-DET_USE_THREADPOOL"]
    headers = ["-isystem", str(include), "-isystem", str(include / "executorch/runtime/core/portable_type/c10")]
    link = [f"-L{package / 'lib'}", "-Wl,--no-as-needed", *(f"-l{name}" for name in (*_EXECUTORCH, _XNNPACK))]
    return [
        *("-std=c++17", *flags, *defines, f'-DEXECUTORCH_VERSION="{version}"', *headers, source, *link),
        "-lpthread",
    ]


def _digest(sources: Sources, command: list[str]) -> str:
    """Of the sources, of the compiler and of how it is called."""
    compiler = shutil.which(command[0])
    assert compiler is not None  # checked before
    told = subprocess.run([compiler, "--version"], capture_output=True, check=True).stdout
    parts = [path.read_bytes() for path in (*sources.headers, sources.main)]
    return hashlib.sha256(b"\0".join([*parts, told, "\0".join(command).encode()])).hexdigest()


def _compile(command: list[str], binary: Path, name: str) -> None:
    """Compile into a file beside `binary`, then put it there."""
    binary.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=binary.parent, prefix=".part-") as part:
        place = Path(part) / "runner"
        try:
            done = subprocess.run(
                [*command, "-o", str(place)], capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise DmedgeError(f"{command[0]} did not end in {_TIMEOUT_S} s; try again on a quieter machine") from error
        if done.returncode:
            words = [line for line in done.stderr.splitlines() if "error" in line] or done.stderr.splitlines()
            said = words[0] if words else "nothing"
            raise DmedgeError(
                f"{command[0]} cannot compile the {name}: {said}; expected the headers and libraries of the version "
                "that dmedge is tested with; install the versions in constraints.txt"
            )
        place.replace(binary)
