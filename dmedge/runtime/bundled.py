"""A bundled program, which carries inputs and expected outputs, run and judged by ExecuTorch itself.

It runs in a process of its own, as every program does: `python -m dmedge.runtime.bundled`.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dmedge.environment import child_environment
from dmedge.errors import DmedgeError, require

TIMEOUT_S = 600.0


@dataclass(frozen=True, slots=True)
class SelfCheck:
    """What one method says of itself."""

    cases: int  # that were run
    failure: str | None  # the first case that failed, and how


def check_bundled(path: Path, limits: Mapping[str, tuple[int, float, float]]) -> dict[str, SelfCheck]:
    """Have every method of a bundled program verify its own cases.

    Args:
        path: of the bundled program.
        limits: method -> its number of cases, and the relative and absolute tolerance.

    Raises:
        DmedgeError: executorch is not installed, or the file is no bundled program.
    """
    command = [sys.executable, "-P", "-m", "dmedge.runtime.bundled", str(path.resolve()), json.dumps(dict(limits))]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            env=child_environment(OMP_NUM_THREADS="1"),
            timeout=TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise DmedgeError(f"{path}: no answer within {TIMEOUT_S:g} s; expected one; export again") from error
    if done.returncode:
        words = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        raise DmedgeError(
            f"{path}: its check ended with exit status {done.returncode}; expected a bundled program for "
            f"executorch; run dmedge export again{'; it last said: ' + words[-1] if words else ''}"
        )
    return {name: SelfCheck(**check) for name, check in json.loads(done.stdout.splitlines()[-1]).items()}


def _check_all(path: Path, table: Mapping[str, tuple[int, float, float]]) -> dict[str, SelfCheck]:
    """Within the process that runs the programs."""
    require("torch", "executorch")
    library: Any = require("executorch.extension.pybindings._C", "executorch")
    require("executorch.kernels.quantized", "executorch")
    content = path.read_bytes()
    module = library._load_bundled_program_from_buffer(content)
    checks = {}
    for method, (cases, rtol, atol) in table.items():
        checks[method] = SelfCheck(cases, None)
        for case in range(cases):
            try:
                module.verify_result_with_bundled_expected_output(method, case, rtol, atol)
            except RuntimeError as error:
                checks[method] = SelfCheck(case + 1, f"case {case}: {error}")
                break
    return checks


def main() -> None:
    """Print what `check_bundled` reads, alone on standard output."""
    answers = os.dup(1)
    os.dup2(2, 1)  # libraries print where they like
    try:
        checks = _check_all(Path(sys.argv[1]), json.loads(sys.argv[2]))
    except (DmedgeError, RuntimeError) as error:
        sys.exit(str(error))
    with os.fdopen(answers, "w", encoding="utf-8") as stream:
        json.dump({name: asdict(check) for name, check in checks.items()}, stream)
        stream.write("\n")


if __name__ == "__main__":
    main()
