"""The bundled program: the ExecuTorch program with golden cases inside, which a device verifies by one call."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dmedge.artifact import Artifact, Program
from dmedge.errors import ExportError, require
from dmedge.evidence.pack import BUNDLED, CASES, FOLDER, Pack, SelfTest, golden_key, read_pack
from dmedge.evidence.parity import golden_scales
from dmedge.export.quiet import quiet
from dmedge.runtime.bundled import check_bundled


def write_bundled(written: Artifact, programs: Sequence[Program]) -> None:
    """Add `conformance/model.bpte` to a bundle that is being written, and have it verify itself.

    It holds the cases of the pack that have all outputs. ExecuTorch knows one tolerance for all outputs
    of a method, so that is the pack's, relative to each number and to the smallest of the largest values.

    Args:
        written: the files so far.
        programs: those for ExecuTorch, all in one file.

    Raises:
        ExportError: it does not verify.
        DmedgeError: executorch is not installed.
    """
    torch: Any = require("torch", "executorch")
    devtools: Any = require("executorch.devtools", "executorch")
    config: Any = require("executorch.devtools.bundled_program.config", "executorch")
    serialize: Any = require("executorch.devtools.bundled_program.serialize", "executorch")
    pack = read_pack(written)
    suites, tests = [], {}
    for program in programs:
        cases = _whole_cases(pack, program)
        tests[program.name] = _self_test(pack, program, cases)
        suites.append(
            config.MethodTestSuite(
                program.name,
                [
                    config.MethodTestCase(
                        inputs=tuple(torch.from_numpy(array) for array in inputs),
                        expected_outputs=[torch.from_numpy(array) for array in outputs],
                    )
                    for inputs, outputs in cases
                ],
            )
        )
    with quiet():
        bundled = devtools.BundledProgram(None, suites, pte_file_path=str(written.root / programs[0].file))
        content = bytes(serialize.serialize_from_bundled_program_to_flatbuffer(bundled))
    path = written.root / FOLDER / BUNDLED
    path.write_bytes(content)
    _name_tests(written.root / FOLDER / CASES, tests)
    for name, check in check_bundled(path, tests).items():
        if check.failure is not None:
            raise ExportError(
                f"{name}: the bundled program does not verify ({check.failure}); expected what torch computed; "
                "nothing was written: report this"
            )


def _whole_cases(pack: Pack, program: Program) -> list[tuple[list[np.ndarray[Any, Any]], list[np.ndarray[Any, Any]]]]:
    """Inputs and outputs of the cases that the pack holds wholly."""
    cases = []
    for case in range(pack.count(program)):
        keys = [golden_key(program.name, case, spec.name) for spec in program.outputs]
        if all(key in pack.golden for key in keys):
            inputs = [pack.array(program.name, case, spec.name) for spec in program.inputs]
            cases.append((inputs, [pack.golden[key] for key in keys]))
    return cases


def _self_test(
    pack: Pack, program: Program, cases: Sequence[tuple[Sequence[Any], Sequence[np.ndarray[Any, Any]]]]
) -> SelfTest:
    tolerance = pack.tolerance(program.runtime, program.name)
    scales = golden_scales(pack, program)
    smallest = min(
        scales.get(spec.name) or float(np.abs(output).max())
        for _, outputs in cases
        for spec, output in zip(program.outputs, outputs, strict=True)
    )
    return SelfTest(cases=len(cases), rtol=tolerance, atol=float(f"{tolerance * smallest:.3g}"))


def _name_tests(path: Path, tests: Mapping[str, SelfTest]) -> None:
    table = json.loads(path.read_text(encoding="utf-8"))
    table["bundled"] = {name: test._asdict() for name, test in tests.items()}
    path.write_text(json.dumps(table, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
