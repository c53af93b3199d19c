"""The command `dmedge`: a table of commands, each imported only when it is called."""

import errno
import logging
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any, NoReturn

import click

from dmedge import __version__
from dmedge.config import near_match
from dmedge.errors import DmedgeError

INTERRUPTED = 130  # 128 + SIGINT, as shells expect

# Command -> where it stands, and what `dmedge --help` says of it. Literal, so that help imports nothing.
COMMANDS = {
    "train": ("dmedge.cli.train:train", "Train a model by a recipe."),
    "import": ("dmedge.cli.import_:import_", "Turn a Hugging Face dual encoder into a checkpoint."),
    "embed": ("dmedge.cli.embed:embed", "Embed training data with a teacher, for compress --distill."),
    "compress": ("dmedge.cli.compress:compress", "Make a checkpoint smaller and faster."),
    "export": ("dmedge.cli.export:export", "Turn a checkpoint into a bundle for a device."),
    "verify": ("dmedge.cli.verify:verify", "Judge a bundle against its baseline; exit 3 if it fails."),
    "conform": ("dmedge.cli.conform:conform", "Replay the golden inputs of a bundle; check its signature."),
    "bench": ("dmedge.cli.bench:bench", "Time a bundle beside its full-precision twin."),
    "compare": ("dmedge.cli.compare:compare", "Find the best of several runs by size, recall and latency."),
    "report": ("dmedge.cli.report:report", "Write all evidence into one HTML page."),
    "eval": ("dmedge.cli.eval:evaluate", "Measure retrieval in every language."),
    "search": ("dmedge.cli.search:search", "Find images by a word in any language."),
    "explain": ("dmedge.cli.explain:explain", "Show where the words of a text look in a picture."),
    "index": ("dmedge.cli.index:index", "Embed pictures so that they can be searched, small enough to travel."),
    "app": ("dmedge.cli.app:app", "Turn a bundle into an app for browsers, phones or boards."),
    "study": ("dmedge.cli.study:study", "Measure what each modality and each fusion is worth."),
    "data": ("dmedge.cli.data:data", "Look at the embedded data."),
    "info": ("dmedge.cli.info:info", "Show what an artifact is, and where it came from."),
    "run": ("dmedge.cli.run:run", "Run all stages of a recipe."),
    "demo": ("dmedge.cli.demo:demo", "Train, compress, export, verify and bench in minutes."),
    "devices": ("dmedge.cli.devices:devices", "List where bundles can run, and what is missing for it."),
    "doctor": ("dmedge.cli.doctor:doctor", "Say what is installed here, and what is missing."),
}


# Optional package -> the extra that brings it, for those who installed only what runs a bundle.
EXTRAS = {
    "torch": "train",
    "accelerate": "train",
    "transformers": "train",
    "optimum": "train",
    "tokenizers": "train",
    "matplotlib": "train",
    "datasets": "data",
    "fsspec": "data",
    "executorch": "executorch",
    "torchao": "executorch",
    "onnx": "onnx",
    "onnxscript": "onnx",
    "coremltools": "coreml",
    "pyarrow": "report",
    "usearch": "index",
}


class LazyGroup(click.Group):
    """Imports a command when it is called, and turns every expected error into one line and an exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All commands, in the order of the flow."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command:
        """Import one command; an unknown name is a usage error that names the nearest."""
        if cmd_name not in COMMANDS:
            ctx.fail(f"no command {cmd_name!r}{near_match(cmd_name, list(COMMANDS))}")
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        command = getattr(import_module(module), attribute)
        assert isinstance(command, click.Command), f"{module}:{attribute} is no command"
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands into the help text without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command that was asked for."""
        with _failures_on_one_line(ctx):
            return super().invoke(ctx)


@contextmanager
def _failures_on_one_line(ctx: click.Context) -> Iterator[None]:
    try:
        yield
    except DmedgeError as error:
        _fail(ctx, str(error), error.exit_code)
    except OSError as error:
        if error.errno == errno.EPIPE:  # the reader has left, which click takes quietly
            raise
        _fail(ctx, str(error), DmedgeError.exit_code)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in EXTRAS:
            raise
        command = f"pip install 'dmedge[{EXTRAS[package]}]'"
        _fail(ctx, f"{package} is not installed, which this command needs; run {command}", DmedgeError.exit_code)
    except KeyboardInterrupt:
        click.echo("interrupted", err=True)
        ctx.exit(INTERRUPTED)


def _fail(ctx: click.Context, message: str, exit_code: int) -> NoReturn:
    click.echo(f"error: {' '.join(message.split())}", err=True)
    ctx.exit(exit_code)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="dmedge")
@click.option("-v", "--verbose", is_flag=True, help="Say more on standard error.")
@click.option("-q", "--quiet", is_flag=True, help="Say only what goes wrong.")
def cli(verbose: bool, quiet: bool) -> None:
    """Multilingual image-text models from training to a phone, with evidence at every step.

    Without an argument a command takes the newest fitting artifact under runs/ and says which.

    Exit codes: 0 done, 1 an error that its message explains, 2 wrong usage, 3 verification failed.
    """
    from dmedge.logs import configure

    configure(logging.DEBUG if verbose else logging.WARNING if quiet else logging.INFO)


def main() -> None:
    """Run the command line; a termination signal unwinds like an interrupt, so nothing is left half-written."""
    signal.signal(signal.SIGTERM, _terminate)
    try:
        cli()
    except KeyboardInterrupt:  # before any command was under way
        sys.exit(INTERRUPTED)


def _terminate(number: int, frame: object) -> NoReturn:
    sys.exit(128 + number)


if __name__ == "__main__":
    main()
