"""Whether a bundle can be judged at all, by its files alone: what no program has to run for is said before any does."""

from collections.abc import Mapping, Sequence

from dmedge.artifact import Artifact, Program
from dmedge.errors import ArtifactError
from dmedge.evidence.choices import texts_of_labels
from dmedge.evidence.pack import check_pack, read_pack
from dmedge.runtime.front_end import FrontEnd
from dmedge.runtime.session import find_program, runtime_of
from dmedge.variants import Variant, variant_of

ENCODERS = ("encode_image", "encode_text")  # one of them at least; the baseline stands in for the other
DECIDES: Mapping[Variant, tuple[str, ...]] = {"fused": ("fuse_pair",), "prompts": ("classify",)}


def check_judgeable(bundle: Artifact, runtime: str | None = None) -> None:
    """Refuse a bundle that lacks what verification reads.

    Args:
        runtime: whose programs are judged [default: that of the first].

    Raises:
        ArtifactError: it lacks a program of its variant, a golden case, or a file that its programs are fed or read by.
        DataError: its preprocessing or its tokenizer cannot be read.
    """
    found = runtime_of(bundle, runtime)
    programs = [program for program in bundle.manifest.programs if program.runtime == found]
    names, variant = [program.name for program in programs], variant_of(bundle.manifest)
    wanted = DECIDES.get(variant, ENCODERS)
    if not set(wanted) & set(names):
        raise ArtifactError(
            f"{bundle.root}: has the programs {', '.join(names)} for {found} ({variant}); expected "
            f"{' or '.join(wanted)}; run dmedge export again"
        )
    _check_widths(bundle, programs)
    front = FrontEnd.read(bundle)
    if variant == "prompts":
        _check_labels(bundle, programs, front.labels)
    check_pack(read_pack(bundle), programs)


def _check_widths(bundle: Artifact, programs: Sequence[Program]) -> None:
    """Embeddings of both sides must lie in one space."""
    widths = {program.name: program.outputs[0].shape[-1] for program in programs if program.name in ENCODERS}
    if len(set(widths.values())) > 1:
        words = ", ".join(f"{width} of {name}" for name, width in widths.items())
        raise ArtifactError(
            f"{bundle.root}: embeddings of {words}; expected as many numbers of both; run dmedge export again"
        )


def _check_labels(bundle: Artifact, programs: Sequence[Program], labels: Sequence[str]) -> None:
    """A label for every score, and texts for every label."""
    scores = find_program(programs, "classify").outputs[0].shape[-1]
    if len(labels) != scores:
        raise ArtifactError(
            f"{bundle.root}: {scores} scores and {len(labels)} labels; expected as many; run dmedge export again"
        )
    texts_of_labels(bundle, labels)
