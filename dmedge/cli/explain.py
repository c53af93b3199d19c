"""dmedge explain: where the words of a text look in a picture, and whether it matters."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from dmedge.artifact import Artifact, load_artifact
from dmedge.cli.common import default_artifact, json_option, print_json
from dmedge.data.emoji import TEST_STYLE

if TYPE_CHECKING:
    from dmedge.evidence.attention_study import Target
    from dmedge.flow.explain import By, Explanation


@click.command()
@click.argument("words", metavar="[CHECKPOINT] IMAGE TEXT", nargs=-1)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    help="File to create: a picture (.png), or a page that writes every script (.html).",
)
@click.option("--style", default=TEST_STYLE, show_default=True, help="Art style of an IMAGE such as emoji:🍜.")
@click.option(
    "--target",
    type=click.Choice(["match", "class"]),
    default="match",
    show_default=True,
    help="What is explained: that text and picture match, or the likeliest class.",
)
@click.option(
    "--by",
    type=click.Choice(["attention", "gradient"]),
    default="attention",
    show_default=True,
    help="gradient leaves out attention, for a fusion without any.",
)
@json_option
def explain(words: tuple[str, ...], out: Path, style: str, target: "Target", by: "By", as_json: bool) -> None:
    """Show where the tokens of TEXT look in IMAGE, what speaks for the answer, and whether those regions matter.

    CHECKPOINT is a directory that dmedge train made, or the name of one that ships [default: the newest under
    runs/]. IMAGE is a file, or an emoji of the embedded data: emoji:🍜 or emoji:1F35C.
    """
    from dmedge.flow.explain import explain_pair, open_picture
    from dmedge.flow.explain_files import check_out, write_explanation
    from dmedge.model.checkpoint import load_checkpoint

    check_out(out)
    artifact, image, text = _arguments(words)
    found = explain_pair(load_checkpoint(artifact), open_picture(image, style), text, target=target, by=by)
    write_explanation(found, out)
    if as_json:
        print_json({"artifact": artifact.root, "artifact_sha256": artifact.digest, **found.to_json(), "out": out})
    else:
        click.echo("\n".join(_lines(found, artifact, out)))


def _arguments(words: tuple[str, ...]) -> tuple[Artifact, str, str]:
    """A shell hands over arguments that are not UTF-8 as lone surrogates, which nothing can print."""
    if len(words) not in (2, 3):
        raise click.UsageError(f"{len(words)} arguments; expected [CHECKPOINT] IMAGE TEXT; put quotes around a phrase")
    artifact = load_artifact(Path(words[0]), kind="checkpoint") if len(words) == 3 else default_artifact("checkpoint")
    return artifact, words[-2], words[-1].encode("utf-8", "replace").decode("utf-8")


def _lines(found: "Explanation", artifact: Artifact, out: Path) -> list[str]:
    from dmedge.flow.explain_picture import plain_token, summary, unwritten

    lines = [f"{' '.join(found.text.split())!r} by {artifact.root}: {summary(found)}"]
    if found.attention is not None:
        spreads = zip(found.attention.tokens, found.attention.token_entropy, strict=True)
        lines += [f"{i:>4}  spread {spread:.2f}  {plain_token(token)}" for i, (token, spread) in enumerate(spreads, 1)]
    for name, own in found.curves.items():
        deletion, insertion = own.deletion_area.mean(), own.insertion_area.mean()
        lines.append(f"order by {name:<9}  area under deletion {deletion:.3f}, under insertion {insertion:.3f}")
    if out.suffix == ".png" and unwritten(found):
        lines.append("no font of this machine has all letters; tokens in the picture go by the numbers above")
    return [*lines, f"{'picture' if out.suffix == '.png' else 'page'}: {out}"]
