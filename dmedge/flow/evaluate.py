"""Evaluation of any checkpoint or bundle on the embedded data or on a folder of one's own."""

from pathlib import Path
from typing import Any

from dmedge.artifact import Artifact
from dmedge.config import near_match
from dmedge.data.evalset import EvalSet, EvalSplit, dataset_evalset, emoji_evalset, folder_evalset
from dmedge.data.questions import QUESTIONS, question_evalset
from dmedge.data.readers import FORMATS, read_dataset
from dmedge.data.records import DatasetConfig
from dmedge.errors import ArtifactError, DataError
from dmedge.variants import DESCRIPTIONS, variant_of

EMOJI = "emoji"
TEST_SPLITS = {"coco": "val", "flickr30k": "test", "vqa": "val"}  # those whose annotations are public
VQA_FILES = "v2_OpenEnded_mscoco_*_questions.json"


def open_evalset(
    data: str = EMOJI,
    *,
    style: str,
    split: EvalSplit = "all",
    max_per_language: int | None = None,
    seed: int = 0,
) -> EvalSet:
    """The evaluation set that a configuration names.

    Args:
        data: "emoji"; a folder with images/ and captions, or with the questions and annotations of VQA v2; or
            "FORMAT:PATH", a format of `dmedge.data.readers`, of which the split for tests is taken.
        style: art style, of the emoji only.
        split: which texts, of the emoji only.
        max_per_language: keep a random choice of so many texts of every language [default: all, of questions
            `QUESTIONS`].
        seed: of that choice.

    Raises:
        DataError: there is no such data, style or split.
    """
    if data == EMOJI:
        found = emoji_evalset(style=style, split=split)
    elif (format := format_of(data)) is None:
        _check_place(data)
        found = folder_evalset(Path(data))
    else:
        settings = DatasetConfig(path=data.removeprefix(f"{format}:"), split=TEST_SPLITS.get(format, "train"))
        dataset = read_dataset(format, settings)
        if dataset.answers:
            return question_evalset(dataset, max_per_language, seed=seed)
        found = dataset_evalset(dataset)
    if found.answers:
        max_per_language = max_per_language or QUESTIONS
    return found if max_per_language is None else found.subset(max_queries_per_language=max_per_language, seed=seed)


def format_of(data: str) -> str | None:
    """The format of data that is not dmedge's own, if it names one or is a folder of VQA v2."""
    name, colon, _ = data.partition(":")
    if colon and name in FORMATS and not Path(data).exists():
        return name
    return "vqa" if any(Path(data).glob(VQA_FILES)) else None


def _check_place(data: str) -> None:
    name, colon, _ = data.partition(":")
    if colon and not Path(data).exists():
        raise DataError(f"{data}: no such folder, and no data format {name!r}{near_match(name, list(FORMATS))}")


def check_both_encoders(artifact: Artifact) -> None:
    """Refuse a variant that cannot find pictures by text.

    Raises:
        ArtifactError: it lacks an encoder.
    """
    variant = variant_of(artifact.manifest)
    if variant not in ("full", "dual"):
        raise ArtifactError(
            f"{artifact.root}: a bundle of the variant {variant}: {DESCRIPTIONS[variant]}; expected both encoders; "
            "export --variant dual of the same checkpoint, or judge this one with dmedge verify"
        )


def evaluate_artifact(artifact: Artifact, data: EvalSet, *, threads: int = 1, workers: int = 1) -> dict[str, Any]:
    """Figures of one artifact, by language and by tag; what `dmedge eval --json` prints.

    Of data that asks questions these are those of the answers alone.

    Raises:
        ArtifactError: the artifact holds nothing to run, is of a variant without one of the encoders, or has no
            answers to the questions of the data.
        DataError: the artifact was trained or calibrated on the data.
        ProgramError: what a program returned is not finite, or an embedding is not of unit length.
    """
    if artifact.manifest.kind == "evidence":
        raise ArtifactError(f"{artifact.root}: found evidence; expected a checkpoint or a bundle; run dmedge train")
    if not data.answers:
        check_both_encoders(artifact)
    from dmedge.evidence.accuracy import measure, work_in
    from dmedge.evidence.decisions import evaluate_answers
    from dmedge.evidence.fusion import evaluate_fusion
    from dmedge.evidence.leakage import check_calibration, check_training, find_calibration, find_training
    from dmedge.patience import patient_progress
    from dmedge.runtime.encoder import Encoder

    training_checked = check_training(find_training(artifact), data)
    calibration = find_calibration(artifact)
    with Encoder(artifact, threads=threads, workers=workers, show_progress=False) as encoder:
        if calibration is not None:
            check_calibration(calibration, data, encoder.preprocess)
        facts = encoder.facts()[0]
        named = {
            "artifact": artifact.name,
            "artifact_sha256": artifact.digest,
            "runtime": f"{facts['runtime']} {facts['version']}",
            "training_checked": training_checked,
        }
        if data.answers:
            return named | {"data": data.name, **evaluate_answers(encoder, artifact, data)}
        with patient_progress(f"evaluating {artifact.name}", work_in(data)) as advance:
            report = measure(encoder, data, advance=advance).report
        can_fuse = any(program.name == "fuse" for program in artifact.manifest.programs)
        fusion = evaluate_fusion(encoder, data) if can_fuse and data.name.startswith(EMOJI) else None
    found = report.to_json() | ({} if fusion is None else {"fusion": fusion})
    chance = {k: found["macro"]["text_to_image"][f"chance_at_{k}"] for k in (1, 5, 10)}
    shares = {f"recall_at_{k}": value for k, value in chance.items()}
    return named | {"n": found["n_texts"], "chance": shares, **found}
