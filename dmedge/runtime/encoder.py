"""Images and texts to embeddings, by whatever runtime an artifact is made for."""

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from dmedge.artifact import Artifact
from dmedge.data.hf_tokenizer import AnyTokenizer
from dmedge.data.transforms import Preprocess
from dmedge.devices.browser import BrowserDevice
from dmedge.devices.protocol import Device
from dmedge.errors import ArtifactError, DataError, DmedgeError, ProgramError
from dmedge.runtime.anywhere import open_anywhere
from dmedge.runtime.front_end import FrontEnd, Picture, pixels_of
from dmedge.runtime.outputs import EMBEDDING, output_fault
from dmedge.runtime.session import Session, SessionFacts, find_program, runtime_of
from dmedge.runtime.shared_work import SharedSessions
from dmedge.runtime.wire import Array
from dmedge.variants import variant_of

Inputs: TypeAlias = Sequence[Array]
T = TypeVar("T")


class Encoder:
    """The front door to a trained model: pictures and strings in, unit-norm embeddings out.

    A checkpoint runs in this process and in batches; a bundle runs in worker processes, one item
    at a time, as on a device. Either way nothing is padded to the length of a neighbour.

    A program that does not take what the artifact's own files make, or that returns what is no embedding and no score,
    is a `ProgramError` wherever it is run.
    """

    def __init__(
        self,
        artifact: Artifact,
        threads: int = 1,
        workers: int = 1,
        *,
        runtime: str | None = None,
        device: Device | BrowserDevice | None = None,
        show_progress: bool = True,
    ) -> None:
        """Load the programs of `artifact`.

        Args:
            artifact: a checkpoint or a bundle.
            threads: threads that one run may use.
            workers: processes that share the work of a bundle.
            runtime: one of those that a bundle has programs for [default: that of its first program].
            device: where a bundle runs, by native runners or in a browser [default: here, by the Python package of
                its runtime].
            show_progress: whether long work shows progress on standard error.

        Raises:
            ArtifactError: `artifact` holds nothing to run or nothing for `runtime`, or lacks a file to feed it.
            DmedgeError: the runtime is missing, or cannot load the programs.
        """
        if workers < 1:
            raise DmedgeError(f"workers is {workers}; expected 1 or more")
        found = runtime_of(artifact, runtime)
        self._artifact, self._front = artifact, FrontEnd.read(artifact)
        self.labels, self.answers = self._front.labels, self._front.answers
        self._sessions = SharedSessions(
            lambda: open_anywhere(artifact, found, device, threads),
            1 if found == "torch" else workers,
            show_progress=show_progress,
        )

    @property
    def session(self) -> Session:
        """The session below, the first of them if there are several."""
        return self._sessions.first

    @property
    def tokenizer(self) -> AnyTokenizer:
        """What turns strings into token ids.

        Raises:
            ArtifactError: the bundle is of a variant that reads no text.
        """
        if self._front.tokenizer is None:
            raise self._lacks("a program that reads text")
        return self._front.tokenizer

    @property
    def preprocess(self) -> Preprocess:
        """What turns pictures into pixels.

        Raises:
            ArtifactError: the bundle is of a variant that reads no pictures.
        """
        if self._front.preprocess is None:
            raise self._lacks("a program that reads pictures")
        return self._front.preprocess

    @property
    def program_names(self) -> frozenset[str]:
        """Names of the programs that can be run."""
        return frozenset(program.name for program in self.session.programs)

    def takes(self, tensor: str) -> bool:
        """Whether a program has an input of that name: "pixels" or "ids"."""
        return (self._front.tokenizer if tensor == "ids" else self._front.preprocess) is not None

    @property
    def embed_dim(self) -> int:
        """Width of the embeddings, 0 where no program gives any."""
        outputs = [spec for program in self.session.programs for spec in program.outputs if spec.name == EMBEDDING]
        return int(outputs[0].shape[-1]) if outputs else 0

    def images(self, images: Sequence[Picture]) -> NDArray[np.float32]:
        """Embed pictures of any size, or uint8 [H, W, 3] arrays, as float32 [N, D].

        Raises:
            ArtifactError: the bundle is of a variant without that program.
            DataError: an array is not uint8 [H, W, 3].
        """
        return self._rows("encode_image", self.embed_dim, images, self._image_inputs, "images")

    def scores(self, images: Sequence[Picture]) -> NDArray[np.float32]:
        """Score pictures for every label of the variant `prompts`, float32 [N, C]; `labels` names them.

        Raises:
            ArtifactError: the bundle is of another variant.
            DataError: an array is not uint8 [H, W, 3].
        """
        return self._rows("classify", len(self.labels), images, self._image_inputs, "images")

    def texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed strings as float32 [N, D]; equal strings are run once.

        Raises:
            ArtifactError: the bundle is of a variant without that program.
        """
        self._check("encode_text")
        different = list(dict.fromkeys(texts))
        distinct = dict(zip(different, self.tokenizer.singles(different), strict=True))
        by_length = sorted(distinct, key=lambda text: distinct[text][0].shape)
        place = {text: i for i, text in enumerate(by_length)}
        embeddings = self._rows("encode_text", self.embed_dim, by_length, distinct.__getitem__, "texts")
        return embeddings[np.array([place[text] for text in texts], np.intp)]

    def pairs(self, images: Sequence[Picture], texts: Sequence[str]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Fuse image i with text i.

        Returns:
            match logits [N] and class logits [N, C]; classes are named by `labels`. C is 0 without a class head.

        Raises:
            DataError: not as many images as texts, or an array is not uint8 [H, W, 3].
            ArtifactError: the model has no fusion, or the bundle is of a variant without it.
        """
        match, classes = self._fused(images, texts, ("match", "classes"))
        return match, classes

    def answer_logits(self, images: Sequence[Picture], texts: Sequence[str]) -> NDArray[np.float32]:
        """Ask text i about image i.

        Returns:
            answer logits [N, A]; answers are named by `answers`. A is 0 without an answer head.

        Raises:
            As `pairs`.
        """
        (answers,) = self._fused(images, texts, ("answers",))
        return answers

    @property
    def has_answers(self) -> bool:
        """Whether there is a fusion with a head that answers questions."""
        return "answers" in self._fusion_outputs

    def fuse(self, patches: Array, tokens: Array, mask: Array) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Run the fusion itself, once: match logit [1] and class logits [1, C], C being 0 without a class head."""
        outputs = self.session.run("fuse", [patches, tokens, mask])
        return self._joined([outputs], "match"), self._joined([outputs], "classes")

    def text_inputs(self, text: str) -> list[Array]:
        """Token ids and mask of one string, int32 [1, L] each, as the programs take them."""
        return list(self.tokenizer.batch([text]))

    def facts(self) -> list[SessionFacts]:
        """The runtime and what it has used, of every session."""
        return self._sessions.facts()

    def close(self) -> None:
        """Release the programs; closing twice is fine."""
        self._sessions.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _image_inputs(self, image: Picture) -> list[Array]:
        return [pixels_of(image, self.preprocess)]

    def _check(self, program: str) -> None:
        if program not in self.program_names:
            raise self._lacks(program)

    def _lacks(self, what: str) -> ArtifactError:
        variant, found = variant_of(self._artifact.manifest), ", ".join(sorted(self.program_names))
        advice = "train with another fusion than 'none'" if variant == "full" else "export with another --variant"
        return ArtifactError(f"{self._artifact.root}: has the programs {found} ({variant}); expected {what}; {advice}")

    def _rows(
        self, program: str, width: int, items: Sequence[T], prepare: Callable[[T], Inputs], what: str
    ) -> NDArray[np.float32]:
        """[N, width] first outputs of a program."""
        self._check(program)

        def run(session: Session, chunk: Sequence[T]) -> list[Array]:
            return [row for (row,) in self._run(session, program, [prepare(item) for item in chunk], (0,))]

        rows = [np.zeros((0, width), np.float32)]
        for chunk in self._sessions.share(items, run, what):
            rows += [row.astype(np.float32, copy=False) for row in chunk]
        return np.concatenate(rows)

    def _fused(
        self, images: Sequence[Picture], texts: Sequence[str], names: Sequence[str]
    ) -> list[NDArray[np.float32]]:
        """Outputs of the fusion by their names, for image i with text i; [N, 0] of a head that there is not."""
        if "fuse_pair" not in self.program_names:
            self._check("fuse")
        if len(images) != len(texts):
            raise DataError(f"{len(images)} images and {len(texts)} texts; expected as many of each")
        pairs = list(zip(images, texts, strict=True))
        results = [result for chunk in self._sessions.share(pairs, self._fuse_chunk, "pairs") for result in chunk]
        return [self._joined(results, name) for name in names]

    def _fuse_chunk(self, session: Session, pairs: Sequence[tuple[Picture, str]]) -> Sequence[Sequence[Array]]:
        if "fuse_pair" in self.program_names:
            whole = [[*self._image_inputs(image), *self.text_inputs(text)] for image, text in pairs]
            return self._run(session, "fuse_pair", whole)
        images = {id(image): image for image, _ in pairs}
        texts = {text: self.text_inputs(text) for _, text in pairs}
        image_runs = self._run(session, "encode_image", [self._image_inputs(image) for image in images.values()], (1,))
        text_runs = self._run(session, "encode_text", list(texts.values()), (1,))
        patches = {key: run[0] for key, run in zip(images, image_runs, strict=True)}
        tokens = {text: run[0] for text, run in zip(texts, text_runs, strict=True)}
        items = [[patches[id(image)], tokens[text], texts[text][1]] for image, text in pairs]
        return self._run(session, "fuse", items)

    def _run(
        self, session: Session, program: str, items: Sequence[Inputs], outputs: Sequence[int] | None = None
    ) -> list[list[Array]]:
        """Outputs of a program for inputs that were made by the artifact's own files, or by its own programs.

        Raises:
            ProgramError: it does not take them, or returned what it must not.
        """
        spec = find_program(session.programs, program)
        try:
            found = session.run_many(program, items, outputs=outputs)
            fault = output_fault(spec, items, found, range(len(spec.outputs)) if outputs is None else outputs)
        except DataError as error:
            fault = f"what its own files make does not fit its programs: {error}"
        if fault is not None:
            raise ProgramError(f"{self._artifact.root}: {fault}; make it again", self._artifact.digest)
        return found

    @property
    def _fusion_outputs(self) -> dict[str, tuple[int, int]]:
        """Name of every output of the fusion -> its place, and its width, 0 for the match logit, which has none."""
        name = "fuse_pair" if "fuse_pair" in self.program_names else "fuse"
        if name not in self.program_names:
            return {}
        outputs = find_program(self.session.programs, name).outputs
        return {spec.name: (place, int(spec.shape[1]) if spec.shape[1:] else 0) for place, spec in enumerate(outputs)}

    def _joined(self, results: Sequence[Sequence[Array]], name: str) -> NDArray[np.float32]:
        """One output of the fusion, of many runs."""
        place, width = self._fusion_outputs.get(name, (None, 0))
        shape = (0,) if name == "match" else (0, width)
        if place is None:
            return np.zeros((sum(len(result[0]) for result in results), 0), np.float32)
        return np.concatenate([np.zeros(shape, np.float32), *(result[place].astype(np.float32) for result in results)])
