"""All of compression at once on imported models: trimmed, a pruned student of its parent, 4-bit weights in a budget."""

from pathlib import Path
from unittest import mock

import pytest
from PIL import Image

from dmedge.compress.config import CompressConfig, LearnConfig
from dmedge.compress.recipe import VOCABULARY, compress_artifact
from dmedge.export.bundle import export_bundle
from dmedge.model.checkpoint import load_checkpoint
from dmedge.model.hf_import import import_checkpoint
from dmedge.model.hf_layers import layer_count
from tests.tiny_bundles import quick_export
from tests.tiny_hf import BODY, DUALS

PICTURES = 12
STEPS = ["start", "trim", "distil small", "prune 0.25", "recover", "int4"]


@pytest.fixture(scope="module")
def captions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "captions"
    (folder / "images").mkdir(parents=True)
    lines = ["image,language,text"]
    for number in range(PICTURES):
        Image.new("RGB", (40, 32), (20 * number, 99, 255 - 20 * number)).save(folder / "images" / f"{number}.png")
        lines += [f"{number}.png,en,a red apple {number}", f"{number}.png,de,ein roter Apfel {number}"]
    (folder / "captions.csv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_everything_at_once(kind: str, captions: Path, tmp_path: Path) -> None:
    with mock.patch.dict(BODY, num_hidden_layers=4):
        parent = import_checkpoint(DUALS[kind](tmp_path / "hf"), tmp_path / "imported")
    config = CompressConfig(
        data=str(captions),
        languages=("en",),
        distill="parent",
        student="small",
        prune=0.25,
        int4=True,
        max_drop=0.99,
        learn=LearnConfig(steps=2, batch_size=6, texts_per_image=1),
        calibration_items=6,
        search_texts=PICTURES,
        ledger_texts=PICTURES,
    )
    made = compress_artifact(parent, config, tmp_path / "made")
    lines = made.manifest.summary["ledger"]
    assert [line["step"] for line in lines] == STEPS  # type: ignore[attr-defined]
    sizes = [line["weight_bytes"] for line in lines]  # type: ignore[attr-defined]
    assert sizes[0] > sizes[1] > sizes[2] > sizes[3] == sizes[4] > sizes[5]
    assert VOCABULARY in made.manifest.files
    assert made.manifest.parents == {"parent": parent.digest, "teacher": parent.digest}
    assert {"int8_rows", "int4_groups"} <= set(made.manifest.precision.values())
    model = load_checkpoint(made).model.config
    assert (layer_count(model.image_hf), layer_count(model.text_hf)) == (2, 2)
    bundle = export_bundle(made, quick_export("linux-x86_64"), tmp_path / "bundle")
    assert bundle.manifest.languages == ("en",)
