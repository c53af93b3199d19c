"""dmedge info: what an artifact is, and where it came from."""

from collections.abc import Mapping
from dataclasses import asdict

import click

from dmedge.artifact import Artifact, download_bytes, program_bytes
from dmedge.cli.common import ArtifactParam, json_option, print_json
from dmedge.cli.tables import print_tables
from dmedge.data.languages import count_languages
from dmedge.lineage import Ancestor, trace_lineage


@click.command()
@click.argument("artifact", type=ArtifactParam())
@json_option
def info(artifact: Artifact, as_json: bool) -> None:
    """Show what ARTIFACT is, after checking every file, and where it came from."""
    lineage = trace_lineage(artifact)
    if as_json:
        print_json(_facts(artifact, lineage))
    else:
        _print_facts(artifact, lineage)


def _facts(artifact: Artifact, lineage: tuple[Ancestor, ...]) -> dict[str, object]:
    return {
        "path": artifact.root,
        "digest": artifact.digest,
        "files_checked": len(artifact.manifest.files),
        "total_bytes": _total_bytes(artifact),
        "program_bytes": program_bytes(artifact),
        "download_bytes": download_bytes(artifact),
        "manifest": asdict(artifact.manifest),
        "lineage": [
            {"role": ancestor.role, "digest": ancestor.digest, "depth": ancestor.depth, "path": ancestor.root}
            for ancestor in lineage
        ],
    }


def _print_facts(artifact: Artifact, lineage: tuple[Ancestor, ...]) -> None:
    from rich.markup import escape
    from rich.table import Table

    manifest = artifact.manifest
    facts = Table(show_header=False, box=None)
    for name, value in _summary_rows(artifact):
        facts.add_row(name, escape(value))
    files = Table("file", "size", "sha256", title="files, all checked", title_justify="left")
    for name, content in manifest.files.items():
        files.add_row(escape(name), format_bytes(content.size_bytes), content.sha256[:12])
    print_tables(facts, files)
    if manifest.programs:
        programs = Table("program", "runtime", "inputs", "outputs", title="programs", title_justify="left")
        for program in manifest.programs:
            signatures = [
                "\n".join(f"{tensor.name} {tensor.dtype}[{', '.join(map(str, tensor.shape))}]" for tensor in tensors)
                for tensors in (program.inputs, program.outputs)
            ]
            programs.add_row(program.name, program.runtime, *map(escape, signatures))
        print_tables(programs)
    if lineage:
        ancestors = Table("made from", "digest", "found at", title="lineage", title_justify="left")
        for ancestor in lineage:
            place = str(ancestor.root) if ancestor.root else "not found beside it or under runs/"
            ancestors.add_row("  " * (ancestor.depth - 1) + escape(ancestor.role), ancestor.digest[:12], escape(place))
        print_tables(ancestors)


def _summary_rows(artifact: Artifact) -> list[tuple[str, str]]:
    manifest = artifact.manifest
    quantized = sorted(set(manifest.precision.values()))
    rows = [
        ("artifact", str(artifact.root)),
        ("kind", f"{manifest.kind}, made by {manifest.stage}" + (f" for {manifest.target}" if manifest.target else "")),
        ("digest", artifact.digest),
        ("size", format_bytes(_total_bytes(artifact))),
        ("programs", format_bytes(program_bytes(artifact))),
        ("download", format_bytes(download_bytes(artifact))),
        ("languages", count_languages(manifest.languages) if manifest.languages else "not named"),
        ("precision", ", ".join(quantized) if quantized else "as trained"),
    ]
    rows += [(name, _brief(value)) for name, value in manifest.summary.items()]
    return [*rows, ("made with", ", ".join(f"{name} {number}" for name, number in manifest.tools.items()))]


def _brief(value: object) -> str:
    """A value on one line; of a history the last entry, since `--json` has them all."""
    if isinstance(value, (list, tuple)) and value and isinstance(value[-1], Mapping):
        return f"{len(value)} entries, the last {_brief(value[-1])}"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_brief(item)}" for name, item in value.items())
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _total_bytes(artifact: Artifact) -> int:
    return sum(content.size_bytes for content in artifact.manifest.files.values())


def format_bytes(size_bytes: int) -> str:
    """A size as people read it, in decimal units: 999 B, 9.9 kB, 2.4 MB."""
    size, units = float(size_bytes), iter(("B", "kB", "MB", "GB"))
    unit = next(units)
    for larger in units:
        if size < 1000:
            break
        size, unit = size / 1000, larger
    return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"
