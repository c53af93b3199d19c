"""What the commands share: artifact arguments, the newest artifact, --out, --json."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from dmedge.artifact import Artifact, Kind, Manifest, load_artifact, newest_artifact

RUNS = Path("runs")
DATA_HELP = "emoji, a FOLDER with images/ and captions or with VQA v2, or FORMAT:PATH such as coco:DIR."

out_option = click.option(
    "--out", type=click.Path(path_type=Path), help="Directory to create; it must not exist [default: beside the input]."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for machines.")


class ArtifactParam(click.ParamType):  # type: ignore[type-arg]  # generic only in the newest click
    """A directory that is loaded, and so checked, as an artifact of one kind, or of any."""

    name = "artifact"

    def __init__(self, kind: Kind | None = None) -> None:
        self.kind = kind

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Artifact:
        """Load the artifact; its errors pass through."""
        return value if isinstance(value, Artifact) else load_artifact(Path(value), kind=self.kind)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Complete directories."""
        return [CompletionItem(incomplete, type="dir")]


def default_artifact(
    kind: Kind,
    *,
    accept: Callable[[Manifest], bool] = lambda manifest: True,
    what: str | None = None,
    root: Path = RUNS,
) -> Artifact:
    """The newest fitting artifact, named on standard error.

    Args:
        accept: whether an artifact with this manifest will do.
        what: how to call such an artifact [default: `kind`].

    Raises:
        ArtifactError: there is none.
    """
    artifact = newest_artifact(kind, root=root, accept=accept)
    click.echo(f"using {artifact.root} (newest {what or kind})", err=True)
    return artifact


def print_json(value: object) -> None:
    """Print one JSON document on standard output; numpy values and paths are written plainly."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False, default=_plain))


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):  # numpy scalars and arrays
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is not JSON")
