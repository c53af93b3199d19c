"""What is particular to a bundle, as one source file of its app."""

from typing import Any

from dmedge.artifact import Artifact
from dmedge.manifest import Runtime

_KOTLIN = """// SPDX-License-Identifier: Apache-2.0
package dmedge

/** The bundle that this module was written for, by dmedge; write it again rather than editing it. */
object BundleFacts {{
    const val DIGEST = "{digest}"
    const val MODEL_FILE = "{file}"
    val PROGRAMS = listOf({programs})
    const val IMAGE_SIZE = {image_size} // pixels of a side; 0 where no program reads pictures
    const val CONTEXT_LENGTH = {context_length} // tokens at most; 0 where no program reads texts
    const val EMBED_DIM = {embed_dim} // numbers of an embedding; 0 where there are none
    const val MINIMUM_RUNTIME = "{minimum}" // of ExecuTorch
}}
"""
_SWIFT = """// SPDX-License-Identifier: Apache-2.0

/// The bundle that this package was written for, by dmedge; write it again rather than editing it.
public enum BundleFacts {{
    public static let digest = "{digest}"
    public static let modelFile = "{file}"
    public static let programs = [{programs}]
    public static let imageSize = {image_size}  // pixels of a side; 0 where no program reads pictures
    public static let contextLength = {context_length}  // tokens at most; 0 where no program reads texts
    public static let embedDim = {embed_dim}  // numbers of an embedding; 0 where there are none
    public static let minimumRuntime = "{minimum}"  // of ExecuTorch
}}
"""


def facts_of_android(bundle: Artifact, runtime: Runtime) -> str:
    """Text of BundleFacts.kt."""
    return _KOTLIN.format(**_facts(bundle, runtime))


def facts_of_ios(bundle: Artifact, runtime: Runtime) -> str:
    """Text of BundleFacts.swift."""
    return _SWIFT.format(**_facts(bundle, runtime))


def _facts(bundle: Artifact, runtime: Runtime) -> dict[str, object]:
    programs = [program for program in bundle.manifest.programs if program.runtime == runtime]
    summary: Any = bundle.manifest.summary
    return {
        "digest": bundle.digest,
        "file": programs[0].file,  # one holds them all
        "programs": ", ".join(f'"{program.name}"' for program in programs),
        "image_size": summary.get("preprocessing", {}).get("size", 0),
        "context_length": summary.get("context_length", 0),
        "embed_dim": summary.get("embed_dim", 0),
        "minimum": summary["minimum_versions"][runtime],
    }
