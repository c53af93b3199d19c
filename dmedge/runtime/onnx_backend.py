"""Programs in ONNX Runtime; runs inside a worker process."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dmedge.artifact import Program
from dmedge.environment import cpu_features
from dmedge.errors import DmedgeError, RuntimeFailure, require
from dmedge.runtime.backend import time_runs
from dmedge.runtime.onnx_profile import read_profile
from dmedge.runtime.profile import WARM_UP, Profile
from dmedge.runtime.wire import Array

PROVIDERS = ["CPUExecutionProvider"]
# Without VNNI, x86 adds products of uint8 and int8 in 16 bits, which overflow without a word; this makes onnxruntime
# take a slower and exact way there. Where there is AMX it takes that way too, for nothing.
EXACT = ("session.x64quantprecision", "1")
SUMS_EXACTLY = {"avx512_vnni", "avx_vnni", "amx_int8"}  # features of processors that add such products in 32 bits

_ERROR_NAMES = (
    *("EPFail", "EngineError", "Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "ModelLoaded"),
    *("NoModel", "NoSuchFile", "NotImplemented", "RuntimeException"),
)


class OnnxBackend:
    """One inference session per program."""

    def __init__(self, threads: int) -> None:
        self._runtime = require("onnxruntime", "onnx")
        state = require("onnxruntime.capi.onnxruntime_pybind11_state", "onnx")
        self._errors: tuple[type[Exception], ...] = tuple(getattr(state, name) for name in _ERROR_NAMES)
        self.version: str = self._runtime.__version__
        self._threads = threads
        self._paths: dict[str, Path] = {}
        self._sessions: dict[str, Any] = {}
        self._names: dict[str, tuple[list[str], list[str]]] = {}

    def load(self, root: Path, programs: Sequence[Program]) -> None:
        """Load every program below `root`.

        Raises:
            DmedgeError: onnxruntime takes another provider than the one that was asked for.
            RuntimeFailure: a file is no ONNX model that it can run, or has other inputs and outputs.
        """
        for program in programs:
            path = root / program.file
            session = self._open(path, self._options())
            if session.get_providers() != PROVIDERS:
                raise DmedgeError(
                    f"{path}: onnxruntime chose {session.get_providers()}; expected {PROVIDERS}; "
                    "install the plain onnxruntime package"
                )
            found = [value.name for value in session.get_inputs()], [value.name for value in session.get_outputs()]
            expected = [spec.name for spec in program.inputs], [spec.name for spec in program.outputs]
            if found != expected:
                raise RuntimeFailure(
                    f"{path}: has inputs and outputs {found}; the manifest names {expected}; export again"
                )
            self._sessions[program.name], self._names[program.name] = session, expected
            self._paths[program.name] = path

    def run(self, program: str, inputs: Sequence[Array], outputs: Sequence[int]) -> list[Array]:
        """Run one program once and return the outputs asked for."""
        input_names, output_names = self._names[program]
        wanted = [output_names[index] for index in outputs]
        with self._explained(f"{program} failed"):
            results: list[Array] = self._sessions[program].run(wanted, dict(zip(input_names, inputs, strict=True)))
        return results

    def time(self, program: str, inputs: Sequence[Array], runs: int) -> NDArray[np.int64]:
        """Time `runs` executions in ns, with inputs bound beforehand."""
        session, (input_names, output_names) = self._sessions[program], self._names[program]
        binding = session.io_binding()
        for name, array in zip(input_names, inputs, strict=True):
            binding.bind_cpu_input(name, array)
        for name in output_names:
            binding.bind_output(name)
        with self._explained(f"{program} failed"):
            return time_runs(lambda: session.run_with_iobinding(binding), runs)

    def profile(self, program: str, inputs: Sequence[Array], runs: int) -> Profile:
        """See `Backend.profile`; in a session of its own, for a profiler slows what it watches."""
        input_names, output_names = self._names[program]
        feeds = dict(zip(input_names, inputs, strict=True))
        with tempfile.TemporaryDirectory() as folder:
            options = self._options()
            options.enable_profiling, options.profile_file_prefix = True, f"{folder}/profile"
            session = self._open(self._paths[program], options)
            with self._explained(f"{program} failed"):
                for _ in range(WARM_UP + runs):
                    session.run(output_names, feeds)
            return read_profile(Path(session.end_profiling()), runs)

    def _options(self) -> Any:
        options = self._runtime.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3  # errors only
        if not SUMS_EXACTLY.intersection(cpu_features()):
            options.add_session_config_entry(*EXACT)
        return options

    def _open(self, path: Path, options: Any) -> Any:
        with self._explained(f"cannot load {path}"):
            return self._runtime.InferenceSession(str(path), options, providers=PROVIDERS)

    @contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        try:
            yield
        except self._errors as error:
            raise RuntimeFailure(
                f"{what}: {error}; expected a program made for onnxruntime; run dmedge export"
            ) from error
