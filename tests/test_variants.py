"""A variant of a bundle computes what the whole model computes, with fewer programs and files."""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from dmedge.artifact import Artifact, load_artifact, program_bytes
from dmedge.cli.main import cli
from dmedge.compress.recipe import CompressConfig, compress_artifact
from dmedge.config import load_config
from dmedge.data.emoji import load_pack
from dmedge.data.evalset import EvalSet
from dmedge.devices.browser import BrowserPage
from dmedge.devices.loopback import LoopbackServer
from dmedge.devices.npm import ONNXRUNTIME_WEB, fetch_package
from dmedge.errors import ArtifactError, ConfigError, DataError, ExportError
from dmedge.evidence.browser import check_in_browser, open_browser_session
from dmedge.evidence.choices import UNKNOWN, true_labels, wilson
from dmedge.evidence.config import VerifyConfig
from dmedge.evidence.coverage import measure_coverage
from dmedge.evidence.decisions import measure_heads
from dmedge.evidence.heads import Sides, label_head
from dmedge.evidence.judgeable import check_judgeable
from dmedge.evidence.parity import check_parity
from dmedge.evidence.report import render
from dmedge.evidence.report_data import collect
from dmedge.evidence.verdict import Budget
from dmedge.export.bundle import ExportConfig, export_bundle
from dmedge.export.costs import read_costs
from dmedge.export.prompts import Prompt, read_prompts
from dmedge.export.readme import SNIPPETS
from dmedge.export.variants import variant_programs
from dmedge.flow.evaluate import evaluate_artifact
from dmedge.flow.prove import verify
from dmedge.flow.recipe import build_recipe
from dmedge.model.config import ModelConfig
from dmedge.runtime.encoder import Encoder
from dmedge.runtime.session import open_session
from dmedge.variants import DESCRIPTIONS, VARIANTS, Variant
from tests.forged import altered, output_changed
from tests.proven_bundles import data, pictures
from tests.tiny_bundles import CONFIG, write_checkpoint

__all__ = ["data", "pictures"]  # fixtures

PROMPTS = (
    Prompt(label="apple", language="en", text="red apple"),
    Prompt(label="apple", language="de", text="roter Apfel"),
    Prompt(label="house", text="red house"),
    Prompt(label="noodles", language="ja", text="ラーメン"),
)
LABELS = ("apple", "house", "noodles")
ENGINES = {"xnnpack": ("android", "executorch"), "onnxruntime": ("linux-x86_64", "onnxruntime")}
ENGINES |= {"onnxruntime-web": ("web", "onnxruntime"), "coreml": ("ios", "coreml")}
VOCABULARY = {"tokenizer.model", "tokenizer.json"}
FILES = {
    "dual": {"preprocessor_config.json", *VOCABULARY},
    "image-only": {"preprocessor_config.json"},
    "text-only": VOCABULARY,
    "fused": {"preprocessor_config.json", *VOCABULARY, "labels.json"},
    "prompts": {"preprocessor_config.json", "labels.json", "prompts.json"},
}
# Lowering a text tower takes its time.
PARAMETERS = [pytest.param(name, marks=pytest.mark.slow if "tokenizer.model" in FILES[name] else ()) for name in FILES]
Make = Callable[..., Artifact]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """A random model with the text tower and the fusion that lower fastest."""
    config = replace(CONFIG, text="bag", fusion="product")
    return write_checkpoint(tmp_path_factory.mktemp("variants") / "checkpoint", config)


@pytest.fixture(scope="module")
def make(checkpoint: Artifact) -> Make:
    """Bundles of a variant, each exported once."""

    @cache
    def int8_checkpoint() -> Artifact:
        config = CompressConfig(int8=True, ledger_texts=0, calibration_items=8)
        return compress_artifact(checkpoint, config, checkpoint.sibling("int8"))

    @cache
    def export(variant: Variant, engine: str = "onnxruntime", precision: str = "float32") -> Artifact:
        target, runtime = ENGINES[engine]
        prompts = PROMPTS if variant == "prompts" else ()
        config = ExportConfig(target=target, runtimes=(runtime,), variant=variant, prompts=prompts)
        parent = int8_checkpoint() if precision == "int8" else checkpoint
        return export_bundle(parent, config, checkpoint.sibling(f"{variant}-{engine}-{precision}"))

    return export


@pytest.mark.parametrize("variant", PARAMETERS)
def test_a_bundle_holds_what_its_variant_needs(variant: Variant, make: Make) -> None:
    bundle = make(variant)
    assert load_artifact(bundle.root, kind="bundle").manifest.summary["variant"] == variant
    assert tuple(program.name for program in bundle.manifest.programs) == VARIANTS[variant]
    assert {name for name in bundle.manifest.files if "/" not in name} == {"README.md", *FILES[variant]}
    cases = json.loads(bundle.file("conformance/cases.json").read_text("utf-8"))
    assert bool(cases["images"]) == ("preprocessor_config.json" in FILES[variant])
    assert bool(cases["texts"]) == ("tokenizer.model" in FILES[variant])
    with open_session(bundle) as session:
        report = check_parity(session, bundle)
    assert report.error_ratio <= 1
    assert (report.images, report.texts) == (len(cases["images"]), len(cases["texts"]))
    assert (report.scores is not None) == (variant == "dual")


@pytest.mark.slow
def test_variants_compute_what_the_checkpoint_computes(
    make: Make, checkpoint: Artifact, rng: np.random.Generator
) -> None:
    size = CONFIG.image_size
    images = list(rng.integers(0, 256, (3, size, size, 3), dtype=np.uint8))
    texts = ["red apple", "ラーメン", ""]
    with Encoder(checkpoint) as whole:
        embeddings, queries, pairs = whole.images(images), whole.texts(texts), whole.pairs(images, texts)
        prompts = whole.texts([prompt.text for prompt in PROMPTS])
    assert program_bytes(make("dual")) == program_bytes(make("image-only")) + program_bytes(make("text-only"))
    for variant in ("dual", "image-only"):
        with Encoder(make(variant)) as encoder:
            np.testing.assert_allclose(encoder.images(images), embeddings, atol=1e-6)
    for variant in ("dual", "text-only"):
        with Encoder(make(variant)) as encoder:
            np.testing.assert_allclose(encoder.texts(texts), queries, atol=1e-6)
    with Encoder(make("fused")) as encoder:
        for found, want in zip(encoder.pairs(images, texts), pairs, strict=True):
            np.testing.assert_allclose(found, want, atol=1e-5)
    apple = prompts[:2].mean(0) / np.linalg.norm(prompts[:2].mean(0))
    with Encoder(make("prompts")) as encoder:
        assert encoder.labels == LABELS
        np.testing.assert_allclose(encoder.scores(images), embeddings @ np.stack([apple, *prompts[2:]]).T, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("engine", [name for name in ENGINES if name != "onnxruntime"])  # which that of the web is too
def test_every_engine_classifies_by_prompts(engine: str, make: Make) -> None:
    bundle = make("prompts", engine, "int8")
    found: Any = bundle.manifest.summary["parity"]
    assert [list(errors) for errors in found.values()] == [["classify"]]
    assert bundle.manifest.precision.get("prompts", "float32") == "float32"  # the embeddings are not rounded
    assert json.loads(bundle.file("labels.json").read_text("utf-8")) == list(LABELS)
    coverage = measure_coverage(bundle, ENGINES[engine][1])
    assert coverage is not None and coverage.modules_planned and coverage.share_carried_out == 1
    assert bundle.manifest.languages == ("de", "en", "ja")
    if engine == "onnxruntime-web":
        with open_browser_session(bundle) as browser:
            assert check_in_browser(browser, bundle).error_ratio <= 1


@pytest.mark.slow
def test_the_page_of_the_readme_classifies(make: Make, tmp_path: Path) -> None:
    bundle = make("prompts", "onnxruntime-web", "int8")
    page = (bundle.root / "README.md").read_text("utf-8").split("```html\n")[1].split("```")[0]
    last = "window.found = [label, [...scores], typeof model.encodeText, typeof model.classify];\n</script>"
    (tmp_path / "index.html").write_text(page.replace("</script>", last), encoding="utf-8")
    files = {"/": tmp_path, "/bundle/": bundle.root, "/ort/": fetch_package(ONNXRUNTIME_WEB) / "dist"}
    server = LoopbackServer(files, headers={})
    browser = BrowserPage(f"{server.url}/index.html")
    try:
        wait = "async () => { while (!window.found) await new Promise((done) => setTimeout(done, 20)); return found; }"
        label, scores, *methods = browser.ask(wait)
    finally:
        browser.close()
        server.close()
    assert methods == ["undefined", "function"]
    with Encoder(bundle) as encoder, Image.open(bundle.root / "conformance/images/wide.png") as image:
        wanted = encoder.scores([image])[0]
    assert label == LABELS[int(wanted.argmax())]
    np.testing.assert_allclose(scores, wanted, atol=1e-3)


@pytest.mark.slow
def test_a_variant_without_an_encoder_says_what_it_lacks(make: Make, data: EvalSet) -> None:
    with Encoder(make("image-only")) as encoder:
        with pytest.raises(ArtifactError, match=r"has the programs encode_image \(image-only\); expected encode_text"):
            encoder.texts(["red apple"])
        with pytest.raises(ArtifactError, match="expected a program that reads text; export with another --variant"):
            encoder.text_inputs("red apple")
    with Encoder(make("text-only")) as encoder, pytest.raises(ArtifactError, match="expected encode_image"):
        encoder.images(data.images)
    with pytest.raises(ArtifactError, match="the variant prompts: .*; expected both encoders; export --variant dual"):
        evaluate_artifact(make("prompts"), data)
    found = CliRunner().invoke(cli, ["search", str(make("text-only").root), "red apple", "--out", "/nowhere/x.png"])
    assert found.exit_code == 1 and "expected both encoders" in found.stderr


@pytest.mark.slow
@pytest.mark.parametrize("variant, side", [("dual", None), ("image-only", "texts"), ("text-only", "images")])
def test_one_encoder_is_judged_with_the_baseline_for_the_other(
    variant: Variant, side: str | None, make: Make, checkpoint: Artifact, pictures: Path, tmp_path: Path
) -> None:
    config = VerifyConfig(data=str(pictures), resamples=100)
    evidence = verify(make(variant), config, tmp_path / "verify", baseline=checkpoint)
    report = json.loads(evidence.file("verify.json").read_text("utf-8"))
    assert report["method"]["embedded_by_baseline"] == side
    assert report["size"]["ratio"] == 1  # the twin is of the same variant: here the bundle itself
    found = report["macro"]["text_to_image"]
    assert found["artifact"]["recall_at_10"] == found["baseline"]["recall_at_10"]


@pytest.mark.parametrize(
    "variant, decisions",
    [("prompts", {"label"}), pytest.param("fused", {"match", "class"}, marks=pytest.mark.slow)],
)
def test_what_decides_is_judged_by_its_decisions(
    variant: Variant, decisions: set[str], make: Make, checkpoint: Artifact, pictures: Path, tmp_path: Path
) -> None:
    place = tmp_path / "verify"
    evidence = verify(make(variant), VerifyConfig(data=str(pictures)), place, baseline=checkpoint)
    report = json.loads(evidence.file("verify.json").read_text("utf-8"))
    assert report["heads"].keys() == decisions
    assert all(head["agreement"]["value"] == 1 for head in report["heads"].values())  # float32 on both sides
    lines = {line["name"]: line["verdict"] for line in report["budgets"]}
    assert lines == {
        "program_size_ratio": "fail",
        "parity_error_ratio": "pass",
        "plan_carried_out": "pass",
        "choice_agreement": "not enough data" if variant == "prompts" else lines["choice_agreement"],
    }
    page = render(collect(place))
    assert "what its heads decide" in page and "decides as fp32" in page
    assert ("mean confidence" in page) == (variant == "fused")


@pytest.mark.parametrize(
    "variant, program, output",
    [("prompts", "classify", "scores"), pytest.param("fused", "fuse_pair", "match", marks=pytest.mark.slow)],
)
def test_decisions_without_numbers_are_a_finding(
    variant: Variant, program: str, output: str, make: Make, checkpoint: Artifact, pictures: Path, tmp_path: Path
) -> None:
    """The greatest of NaN is the first: without a look at them they would be decisions like others."""
    silent = altered(make(variant), tmp_path / "silent", output_changed(program, output, "Mul", float("nan")))
    evidence = verify(silent, VerifyConfig(data=str(pictures)), tmp_path / "verify", baseline=checkpoint)
    report = json.loads(evidence.file("verify.json").read_text("utf-8"))
    assert (report["verdict"], report["heads"], report["parity"]) == ("fail", {}, None)
    assert f"{program}: output '{output}' is not finite for" in report["failure"]


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda prompts: prompts.pop(2), "no text of 'house'; expected one of every label"),
        (lambda prompts: prompts[0].pop("text"), "KeyError.*expected texts with their labels"),
    ],
    ids=["no text", "no key"],
)
def test_labels_whose_texts_are_gone_cannot_be_judged(
    change: Callable[[list[dict[str, Any]]], object], message: str, make: Make, tmp_path: Path
) -> None:
    def edit(root: Path) -> None:
        prompts = json.loads((root / "prompts.json").read_text("utf-8"))
        change(prompts)
        (root / "prompts.json").write_text(json.dumps(prompts), "utf-8")

    check_judgeable(make("prompts"))
    with pytest.raises(ArtifactError, match=message):
        check_judgeable(altered(make("prompts"), tmp_path / "lacking", edit))


def test_labels_that_are_emoji_have_a_truth(make: Make, tmp_path: Path) -> None:
    class Fake:
        labels = ("🍎", "cat face", "something else")

        def scores(self, images: object) -> Any:
            return np.eye(3, dtype=np.float32)[[0, 1, 1]]

        def images(self, images: object) -> Any:
            return np.eye(3, dtype=np.float32)[[0, 1, 2]]

        def texts(self, texts: object) -> Any:
            return np.eye(3, dtype=np.float32)[[0, 0, 1, 2]]

    by_char = {emoji.char: emoji.hexcode for emoji in load_pack().emoji}
    clusters = (by_char["🍎"], by_char["🐱"], by_char["🐶"])
    shown = EvalSet("emoji/test", [None] * 3, clusters, (), np.zeros(0, np.int64), ())
    fake: Any = Fake()
    prompts = [{"label": label, "text": label} for label in Fake.labels[:1] + Fake.labels]
    (tmp_path / "prompts.json").write_text(json.dumps(prompts), encoding="utf-8")
    bundle = Artifact(tmp_path, make("prompts").manifest)
    assert true_labels(Fake.labels, shown).tolist() == [0, 1, UNKNOWN]
    found = measure_heads(fake, fake, bundle, shown, VerifyConfig(resamples=100), Budget())["label"]
    assert (found.n, found.n_known) == (3, 2)
    assert found.agreement.value == pytest.approx(2 / 3)
    assert {(row.artifact, row.baseline) for row in found.figures.values()} == {(1.0, 1.0)}
    assert true_labels(Fake.labels, replace(shown, labels=("Cat face", "", "dog"))).tolist() == [1, UNKNOWN, UNKNOWN]


def test_an_interval_of_a_share_is_never_empty() -> None:
    for hits, n in ((0, 10), (5, 10), (10, 10)):
        share, low, high = wilson(hits, n)
        assert -1e-12 <= low <= share <= high <= 1 + 1e-12 and low < high
    nobody_knows = label_head(
        Sides(np.ones(4, int), np.ones(4, int)), np.full(4, UNKNOWN), np.arange(4), VerifyConfig()
    )
    assert (nobody_knows.figures, nobody_knows.most_common, nobody_knows.agreement.value) == ({}, None, 1)


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["fused", "text-only"])
def test_the_commands_judge_and_time_a_variant(
    variant: Variant, make: Make, checkpoint: Artifact, pictures: Path, tmp_path: Path
) -> None:
    bundle, shared = str(make(variant).root), ["--baseline", str(checkpoint.root), "--data", str(pictures)]
    run = CliRunner().invoke
    judged = run(cli, ["verify", bundle, *shared, "--budget", "program_size_ratio=1", "--out", str(tmp_path / "v")])
    assert judged.exit_code == 0, judged.output
    assert ("as baseline" if variant != "text-only" else "the baseline embedded the images") in judged.stdout
    timed = run(cli, ["bench", bundle, *shared, "--rounds", "2", "--out", str(tmp_path / "b")])
    assert timed.exit_code == 0, timed.output
    assert VARIANTS[variant][0] in timed.stdout
    replayed = run(cli, ["conform", bundle])
    assert replayed.exit_code == 0 and VARIANTS[variant][0] in replayed.stdout
    assert ("pixels" in replayed.stdout, "token ids" in replayed.stdout) == (
        variant != "text-only",
        variant != "prompts",
    )


def test_the_command_names_bundle_and_prompts(
    checkpoint: Artifact, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[ExportConfig, Path]] = []
    made = make("prompts")

    def pretend(parent: Artifact, config: ExportConfig, place: Path, **_: object) -> Artifact:
        asked.append((config, place))
        return made

    monkeypatch.setattr("dmedge.export.bundle.export_bundle", pretend)
    (tmp_path / "prompts.tsv").write_text("label\tlanguage\ttext\napple\ten\tred apple\n\nsoup\n", encoding="utf-8")
    options = ["--target", "android", "--variant", "prompts", "--prompts", str(tmp_path / "prompts.tsv")]
    done = CliRunner().invoke(cli, ["export", str(checkpoint.root), *options, "--prompt", "ラーメン"])
    assert done.exit_code == 0, done.output
    config, place = asked[0]
    assert place == checkpoint.sibling("android-prompts")
    assert [(p.label, p.language, p.text) for p in config.prompts] == [
        ("apple", "en", "red apple"),
        ("soup", "", "soup"),
        ("ラーメン", "", "ラーメン"),
    ]


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("a.tsv", "", "holds no prompt"),
        ("a.tsv", "apple\t\n", "prompt 1: .*expected a word at least in each"),
        ("a.tsv", "a\tb\tc\td\n", "line 1 has 4 cells between tabs, not 1 to 3; expected"),
        ("a.json", '[{"label": "a", "txt": "b"}]', "unknown key 'txt'; did you mean 'text'"),
        ("a.json", "[3]", "found 3; expected a text, or an object"),
        ("a.json", "{", "or JSON"),
    ],
)
def test_a_bad_prompt_file_is_an_error(name: str, content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        read_prompts(tmp_path / name)


def test_json_and_lines_say_the_same(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('["soup", {"label": "apple", "text": "red apple"}]', encoding="utf-8")
    (tmp_path / "a.txt").write_text("soup\napple\tred apple\n", encoding="utf-8")
    assert read_prompts(tmp_path / "a.json") == read_prompts(tmp_path / "a.txt")


def test_settings_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ConfigError, match="'image_only'; did you mean 'image-only'"):
        load_config(ExportConfig, {"target": "web", "variant": "image_only"})
    with pytest.raises(ConfigError, match="expected prompts exactly with the variant 'prompts'"):
        ExportConfig(target="web", variant="prompts")
    with pytest.raises(ConfigError, match="found 4 prompts and the variant 'full'"):
        ExportConfig(target="web", prompts=PROMPTS)


def test_a_recipe_exports_variants() -> None:
    prompts = [{"label": "apple", "text": "red apple"}]
    stages = [{"kind": "train"}, {"kind": "export", "target": "web"}]
    stages += [{"kind": "export", "target": "web", "variant": "prompts", "prompts": prompts}]  # type: ignore[dict-item]
    recipe = build_recipe({"stage": stages}, where="test")
    assert [stage.name for stage in recipe.stages] == ["baseline", "web", "web-prompts"]
    assert recipe.stages[2].config.prompts == (Prompt(label="apple", text="red apple"),)


def test_a_model_without_fusion_has_no_fused_variant() -> None:
    config = ModelConfig(vocab_size=8, classes=2, fusion="none")
    assert len(variant_programs(config, "full")) == 2
    with pytest.raises(ExportError, match="trained without fusion; expected one that fuses; export the variant dual"):
        variant_programs(config, "fused")


def test_every_variant_is_described_and_has_code_for_every_engine() -> None:
    assert VARIANTS.keys() == DESCRIPTIONS.keys() == {"full", *FILES}
    for pieces in SNIPPETS.values():
        assert {name for programs in VARIANTS.values() for name in programs} - {"fuse"} <= pieces.keys()


def test_what_an_export_took_is_known_and_no_part_of_it(make: Make) -> None:
    bundle = make("prompts")
    costs = read_costs(bundle)
    assert costs is not None and costs["seconds"] > 0
    cost = costs["engines"]["onnxruntime"]
    assert min(cost["lowering_s"], cost["comparing_s"]) > 0 and cost["peak_rss_bytes"] > 10_000_000
    assert "seconds" not in (bundle.root / "manifest.json").read_text("utf-8")
    assert read_costs(Artifact(bundle.root, replace(bundle.manifest, stage="another"))) is None


@pytest.mark.parametrize("variant", PARAMETERS)
def test_the_python_of_the_readme_runs(variant: Variant, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make(variant).root
    monkeypatch.chdir(root)
    names: dict[str, Any] = {}
    exec((root / "README.md").read_text("utf-8").split("```python\n")[1].split("```")[0], names)  # our own text
    given = {"dual": "score", "image-only": "found", "text-only": "query", "fused": "classes", "prompts": "scores"}
    assert names[given[variant]].shape[0] == 1
