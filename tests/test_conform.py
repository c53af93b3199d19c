"""The conformance pack holds what trips a port, and a replay says what differs first, or that nothing does."""

import json
import re
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from dmedge.artifact import Artifact, download_bytes, new_artifact, program_bytes
from dmedge.cli.main import cli
from dmedge.errors import ArtifactError, DmedgeError
from dmedge.evidence.pack import CASES, FOLDER, GOLDEN, SCORES, brief_text, golden_key, read_pack
from dmedge.evidence.parity import check_parity
from dmedge.export.texts import ODD_TEXTS, golden_texts, scripts_in
from dmedge.flow.conform import BUNDLED_FILE, conform
from dmedge.model.checkpoint import load_checkpoint
from dmedge.model.costs import count_costs
from dmedge.runtime.bundled import check_bundled
from dmedge.runtime.session import Session, open_session
from dmedge.runtime.wire import Array
from tests.tiny_bundles import (
    CONFIG,
    int8_checkpoint,
    onnx_bundle,
    onnx_int8_bundle,
    pte_int8_bundle,
    tiny_checkpoint,
    tiny_tokenizer,
)

__all__ = ["int8_checkpoint", "onnx_bundle", "onnx_int8_bundle", "pte_int8_bundle", "tiny_checkpoint"]  # fixtures

Change = Callable[[Path], object]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["conform", *map(str, arguments)])


def altered(bundle: Artifact, out: Path, change: Change) -> Artifact:
    """The same bundle with changed files, and digests that fit them."""
    manifest = bundle.manifest
    with new_artifact(out) as draft:
        shutil.copytree(bundle.root, draft.path, dirs_exist_ok=True)
        (draft.path / "manifest.json").unlink()
        change(draft.path)
        return draft.finish(
            kind="bundle",
            stage=manifest.stage,
            config=manifest.config,
            parents=manifest.parents,
            programs=manifest.programs,
            precision=manifest.precision,
            summary=manifest.summary,
            target=manifest.target,
        )


def edit_golden(change: Callable[[dict[str, Array]], object]) -> Change:
    def edit(root: Path) -> None:
        with np.load(root / FOLDER / GOLDEN) as archive:
            golden = dict(archive)
        change(golden)
        np.savez(root / FOLDER / GOLDEN, allow_pickle=False, **golden)

    return edit


def edit_cases(change: Callable[[dict[str, Any]], object]) -> Change:
    def edit(root: Path) -> None:
        table = json.loads((root / FOLDER / CASES).read_text("utf-8"))
        change(table)
        (root / FOLDER / CASES).write_text(json.dumps(table), "utf-8")

    return edit


def test_the_pack_has_every_kind_of_picture(onnx_bundle: Artifact) -> None:
    pack = read_pack(onnx_bundle)
    sizes, modes, turned = {}, set(), 0
    for name in pack.images:
        with Image.open(pack.folder / name) as image:
            sizes[name] = image.size
            modes.add(image.mode)
            turned += image.getexif().get(0x0112, 1) != 1
    assert {"RGB", "RGBA", "L", "P", "I;16"} <= modes and turned == 1
    shapes = sizes.values()
    assert any(w == h for w, h in shapes) and any(w > h for w, h in shapes) and any(w < h for w, h in shapes)
    assert (1, 1) in shapes and max(w * h for w, h in shapes) > 3e6
    folder = sum(path.stat().st_size for path in (pack.folder / "images").iterdir())
    assert folder < 60_000


def test_antialiasing_shows_in_the_large_picture(onnx_bundle: Artifact) -> None:
    pack = read_pack(onnx_bundle)
    with Image.open(pack.folder / "images/large.png") as image:
        plain = np.asarray(image.resize((16, 11), Image.Resampling.NEAREST), int)
    case = pack.images.index("images/large.png")
    golden = pack.array("encode_image", case, "pixels")[0, 2:13].astype(int)
    assert np.abs(plain - golden).max() > 50


def test_the_texts_have_what_trips_a_tokenizer(onnx_bundle: Artifact) -> None:
    texts = read_pack(onnx_bundle).texts
    letters = set("".join(texts))
    assert {"", " ", "trailing space ", "two  spaces   three"} <= set(texts)
    for wanted in (
        "\u0301",
        "\u200d",
        "\u200f",
        "\ufe0f",
        "\U0001f1ef",
        "𝒜",
        "ｶ",
        "Ａ",
        "ß",
        "ﬁ",
        "\u00a0",
        "\U000e007f",
    ):
        assert wanted in letters, ascii(wanted)
    assert len(set(texts)) == len(texts)


def test_a_script_of_the_vocabulary_gets_a_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = tiny_tokenizer(tmp_path)
    piece, last = tokenizer.piece, tokenizer.vocab_size - 1
    monkeypatch.setattr(tokenizer, "piece", lambda token: "\u2581ꦗꦮ" if token == last else piece(token))
    assert " ꦗꦮ" in golden_texts(tokenizer)  # Javanese, which no embedded language is written in
    assert {"LATIN", "HEBREW", "ARABIC"} <= set(scripts_in("".join(ODD_TEXTS)))


def test_the_scores_are_those_of_the_embeddings(onnx_bundle: Artifact) -> None:
    pack = read_pack(onnx_bundle)
    images, texts = (
        np.concatenate([pack.array(name, case, "embedding") for case in range(count)])
        for name, count in (("encode_image", len(pack.images)), ("encode_text", len(pack.texts)))
    )
    np.testing.assert_allclose(pack.golden[SCORES], texts @ images.T, atol=1e-6)
    assert check_parity_of(onnx_bundle).scores.n == len(pack.images) * len(pack.texts)


def check_parity_of(bundle: Artifact) -> Any:
    with open_session(bundle) as session:
        return check_parity(session, bundle)


def test_pairs_name_what_the_fusion_is_given(onnx_bundle: Artifact) -> None:
    pack = read_pack(onnx_bundle)
    assert len(pack.pairs) == 4
    for case, (_, text) in enumerate(pack.pairs):
        mask = pack.array("encode_text", text, "mask")
        np.testing.assert_array_equal(pack.array("fuse", case, "mask"), mask)


def test_large_outputs_are_kept_for_a_few_cases_only(onnx_bundle: Artifact) -> None:
    golden = read_pack(onnx_bundle).golden
    assert sum(key.endswith("/tokens") and key.startswith("encode_text/") for key in golden) == 3
    assert sum(key.endswith("/embedding") and key.startswith("encode_text/") for key in golden) > 40


def test_the_command_says_that_nothing_differs(onnx_bundle: Artifact) -> None:
    done = run(onnx_bundle.root)
    assert done.exit_code == 0, done.output
    rows = {line.split()[0]: line.split() for line in done.stdout.splitlines()[1:]}
    assert {"encode_image", "encode_text", "fuse", "scores"} <= rows.keys()
    assert rows["encode_text"][1] == str(len(read_pack(onnx_bundle).texts)) and rows["encode_text"][-1] == "yes"
    assert "signature: none" in done.stdout


def test_the_command_prints_json(onnx_bundle: Artifact) -> None:
    found = json.loads(run(onnx_bundle.root, "--json").stdout)
    assert found["conforms"] and found["failures"] == [] and found["digest"] == onnx_bundle.digest
    assert found["runtime"]["runtime"] == "onnxruntime"
    assert found["parity"]["programs"]["fuse"]["n"] == 4 and found["parity"]["scores"]["first"] is None


def _move_one(golden: dict[str, Array]) -> None:
    golden[golden_key("encode_text", 5, "embedding")][0, 7] += 0.5


def _other_token(golden: dict[str, Array]) -> None:
    golden[golden_key("encode_text", 1, "ids")][0, 2] += 1


def _other_pixel(golden: dict[str, Array]) -> None:
    golden[golden_key("encode_image", 2, "pixels")][0, 3, 4, 1] ^= 255


def _other_score(golden: dict[str, Array]) -> None:
    golden[SCORES][4, 3] += 1


def _no_number(golden: dict[str, Array]) -> None:
    golden[golden_key("encode_image", 0, "patches")][0, 1, 2] = np.nan


DIFFERENCES: dict[str, tuple[Callable[[dict[str, Array]], None], str]] = {
    "embedding": (_move_one, r"encode_text: case 5, .*: embedding\[0, 7\] is .*; expected"),
    "token": (_other_token, r"token ids: case 1, .*: ids\[0, 2\] is \d+; expected \d+"),
    "pixel": (_other_pixel, r"pixels: case 2, images/tall.png: pixels\[0, 3, 4, 1\] is \d+; expected \d+"),
    "score": (_other_score, r"scores: case 4, .* with images/grey.png: scores\[4, 3\] is"),
    "nan": (_no_number, r"encode_image: case 0, images/square.png: patches\[0, 1, 2\] is .*; expected nan"),
}


@pytest.mark.parametrize("case", DIFFERENCES)
def test_the_first_difference_is_named_and_exits_with_three(case: str, onnx_bundle: Artifact, tmp_path: Path) -> None:
    change, message = DIFFERENCES[case]
    broken = altered(onnx_bundle, tmp_path / "broken", edit_golden(change))
    done = run(broken.root)
    assert done.exit_code == 3, done.output
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("first difference: ")]
    assert re.search(message, line), line
    found = json.loads(run(broken.root, "--json").stdout)
    assert not found["conforms"] and line.removeprefix("first difference: ") == found["failures"][0]


def test_a_shorter_text_differs_where_it_ends(onnx_bundle: Artifact, tmp_path: Path) -> None:
    texts = read_pack(onnx_bundle).texts
    place = texts.index("red apple " * 200)
    short = altered(onnx_bundle, tmp_path / "short", edit_cases(lambda table: table["texts"].__setitem__(place, "red")))
    first = check_parity_of(short).first_token
    assert first is not None and first.case == place and first.tensor == "ids"
    assert first.found == "the end of the text" and isinstance(first.expected, int)


def test_any_session_will_do(onnx_bundle: Artifact) -> None:
    """A device implements `Session`; this one turns an output on its way."""

    class Turned:
        def __init__(self, session: Session) -> None:
            self.programs, self.facts, self._session = session.programs, session.facts, session

        def run_many(
            self, program: str, items: Sequence[Sequence[Array]], *, outputs: Sequence[int] | None = None
        ) -> list[list[Array]]:
            return [[-array for array in row] for row in self._session.run_many(program, items, outputs=outputs)]

    with open_session(onnx_bundle) as session:
        assert conform(onnx_bundle, session).failures == ()
        turned: Any = Turned(session)
        (failure,) = conform(onnx_bundle, turned).failures
    assert failure.startswith("encode_image: case 0, images/square.png: embedding[0, 0] is")


PACK_DAMAGES: dict[str, tuple[Change, str]] = {
    "no golden": (lambda root: (root / FOLDER / GOLDEN).unlink(), "expected golden arrays"),
    "half golden": (
        lambda root: (root / FOLDER / GOLDEN).write_bytes((root / FOLDER / GOLDEN).read_bytes()[:9000]),
        "expected golden arrays",
    ),
    "no cases": (lambda root: (root / FOLDER / CASES).unlink(), "expected a conformance pack"),
    "no pairs": (edit_cases(lambda table: table.pop("pairs")), "KeyError.*pairs"),
    "no tolerance": (edit_cases(lambda table: table.update(tolerances={})), "tolerance None for encode_image"),
    "no picture": (lambda root: (root / FOLDER / "images/square.png").unlink(), "square.png.*expected a picture"),
    "no image": (
        lambda root: (root / FOLDER / "images/square.png").write_bytes(b"?"),
        "square.png.*expected a picture",
    ),
    "other pixels": (
        edit_golden(
            lambda golden: golden.update({golden_key("encode_image", 0, "pixels"): np.zeros((1, 8, 8, 3), np.uint8)})
        ),
        r"input 'pixels' is uint8\[1, 8, 8, 3\]; expected uint8",
    ),
    "no score": (edit_golden(lambda golden: golden.pop(SCORES)), "no 'scores' to score with"),
    "no output": (
        edit_golden(lambda golden: golden.pop(golden_key("encode_text", 9, "embedding"))),
        "lacks 'encode_text/9/embedding'",
    ),
    "no patches": (
        edit_golden(lambda golden: [golden.pop(golden_key("encode_image", case, "patches")) for case in range(3)]),
        "no golden patches of encode_image",
    ),
}


@pytest.mark.parametrize("case", PACK_DAMAGES)
def test_a_pack_that_lacks_something_is_an_error_and_no_pass(case: str, onnx_bundle: Artifact, tmp_path: Path) -> None:
    change, message = PACK_DAMAGES[case]
    with open_session(onnx_bundle) as session, pytest.raises(ArtifactError, match=message):
        check_parity(session, altered(onnx_bundle, tmp_path / "broken", change))


REFUSED = {
    "device": (["--device", "locl"], "did you mean 'local'"),
    "runtime": (["--runtime", "coreml"], "no programs"),
    "runtime of the web": (["--device", "web", "--runtime", "coreml"], "no programs"),
    "runner here": (["--runner", "runner"], "local: takes no runner of its own"),
    "runner of the web": (["--device", "web", "--runner", "runner"], "web: takes no runner of its own"),
    "missing runner": (["--device", "adb:none", "--runner", "nowhere"], "nowhere: no such file"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_unknown_devices_and_runtimes_are_refused(case: str, onnx_bundle: Artifact) -> None:
    options, message = REFUSED[case]
    done = run(onnx_bundle.root, *options)
    assert (done.exit_code, message in done.stderr) == (1, True), done.output


def test_texts_are_shown_so_that_differences_can_be_seen() -> None:
    assert brief_text("red") == "'red'"
    assert brief_text("red ") == "'red '" and brief_text("\u200d") == r"'\u200d'"
    assert len(brief_text("x" * 999)) == 60


# ExecuTorch: what takes longer.


@pytest.fixture
def bundled(pte_int8_bundle: Artifact) -> Artifact:
    return pte_int8_bundle


@pytest.mark.slow
def test_a_bundled_program_verifies_itself(bundled: Artifact) -> None:
    assert program_bytes(bundled) == bundled.manifest.files["programs/model.pte"].size_bytes
    assert bundled.manifest.files[BUNDLED_FILE].size_bytes > program_bytes(bundled)
    assert download_bytes(bundled) > bundled.manifest.files[BUNDLED_FILE].size_bytes / 2
    found = json.loads(run(bundled.root, "--json").stdout)
    assert found["conforms"]
    assert {name: check["cases"] for name, check in found["self_checks"].items()} == {
        "encode_image": 3,
        "encode_text": 3,
        "fuse": 4,
    }


@pytest.mark.slow
def test_a_bundled_program_says_where_it_fails(bundled: Artifact) -> None:
    strict = {"encode_image": (3, 0.0, 1e-9), "fuse": (4, 1.0, 10.0)}
    checks = check_bundled(bundled.file(BUNDLED_FILE), strict)
    assert checks["fuse"].failure is None
    failure = checks["encode_image"].failure
    assert failure is not None and failure.startswith("case 0: ")
    for check in check_bundled(bundled.file("programs/model.pte"), strict).values():  # carries no cases
        assert check.failure is not None


@pytest.mark.slow
def test_the_executorch_programs_count_as_much_as_the_model(bundled: Artifact, int8_checkpoint: Artifact) -> None:
    costs = count_costs(load_checkpoint(int8_checkpoint).model)
    towers: Any = bundled.manifest.summary["towers"]
    rows = {name: tower["coverage"]["executorch"] for name, tower in towers.items()}
    assert sum(row["macs"] for row in rows.values()) == costs.macs
    assert sum(row["macs_int8"] for row in rows.values()) == costs.macs_int8
    assert all(row["mac_share_delegated"] == 1 for row in rows.values())
    table = CONFIG.vocab_size * CONFIG.text_width
    assert rows["text"]["parameters"] - rows["text"]["parameters_delegated"] >= table  # portable kernels look it up


@pytest.mark.slow
@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"ET12", b"ET99", r"(?s)cannot load .*expected a program made for executorch; run dmedge export"),
        (b"aten::native_layer_norm", b"aten::native_layer_nope", r"(?s)cannot load .*run dmedge export"),
    ],
    ids=["other version", "unknown operator"],
)
def test_a_pte_that_this_runtime_cannot_run_says_so(
    old: bytes, new: bytes, message: str, bundled: Artifact, tmp_path: Path
) -> None:
    def patch(root: Path) -> None:
        path = root / "programs/model.pte"
        content = path.read_bytes()
        assert old in content
        path.write_bytes(content.replace(old, new))

    with pytest.raises(DmedgeError, match=message):
        open_session(altered(bundled, tmp_path / "other", patch))


@pytest.mark.slow
def test_programs_of_another_model_do_not_conform(
    onnx_int8_bundle: Artifact, onnx_bundle: Artifact, tmp_path: Path
) -> None:
    def mix(root: Path) -> None:
        shutil.rmtree(root / "programs")
        shutil.copytree(onnx_int8_bundle.root / "programs", root / "programs")

    done = run(altered(onnx_bundle, tmp_path / "mixed", mix).root)
    assert done.exit_code == 3
    assert "first difference: encode_image: case 0" in done.stdout


def test_a_missing_package_names_its_extra(
    onnx_bundle: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "key.pub").write_text("")
    monkeypatch.setitem(sys.modules, "model_signing.verifying", None)
    done = run(onnx_bundle.root, "--key", tmp_path / "key.pub")
    assert done.exit_code == 1
    assert "pip install 'dmedge[sign]'" in done.stderr
