"""The reference client finds what dmedge finds, without dmedge."""

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from dmedge.artifact import Artifact
from dmedge.data.captions import ImageFiles
from dmedge.runtime.encoder import Encoder
from tests.tiny_bundles import WORDS, onnx_bundle, tiny_checkpoint

__all__ = ["onnx_bundle", "tiny_checkpoint"]  # fixtures

CLIENT = Path(__file__).parent.parent / "apps/reference/search.py"
TEXTS = ["", " ", "x", "RED Apple", "ﬁne ① ｶﾞ", "красный дом", "บ้าน", "🍜🇯🇵", "word " * 100, *WORDS]


@pytest.fixture(scope="module")
def client() -> ModuleType:
    spec = importlib.util.spec_from_file_location("reference_search", CLIENT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def pictures(tmp_path: Path, rng: np.random.Generator) -> Path:
    """Pictures of every kind that preprocessing tells apart."""
    folder = tmp_path / "pictures"
    (folder / "below").mkdir(parents=True)

    def noise(*shape: int) -> Image.Image:
        return Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8))

    noise(16, 16, 3).save(folder / "exact.png")
    noise(64, 40, 3).save(folder / "tall.jpg")
    noise(5, 90, 3).save(folder / "below/wide.webp", lossless=True)
    noise(33, 32).save(folder / "grey.png")
    noise(30, 30, 4).save(folder / "alpha.png")
    noise(24, 20).convert("P").save(folder / "palette.gif")
    Image.fromarray(rng.integers(0, 65536, (21, 20), dtype=np.uint16)).save(folder / "deep.png")
    turned = Image.Exif()
    turned[0x0112] = 6  # orientation: a quarter turn
    noise(20, 50, 3).save(folder / "turned.jpg", exif=turned)
    (folder / "notes.txt").write_text("no picture")
    return folder


def test_client_embeds_and_tokenises_like_dmedge(client: ModuleType, onnx_bundle: Artifact, pictures: Path) -> None:
    model = client.Model(onnx_bundle.root)
    files = sorted(path for path in pictures.rglob("*") if path.suffix in client.SUFFIXES)
    assert len(files) == 8
    with Encoder(onnx_bundle) as encoder:
        for text, want in zip(TEXTS, encoder.texts(TEXTS), strict=True):
            assert model.token_ids(text) == encoder.tokenizer.encode(text)
            np.testing.assert_allclose(model.embed_text(text), want, rtol=0, atol=1e-6)
        for path in files:
            with Image.open(path) as image:
                np.testing.assert_array_equal(model.pixels(image), encoder.preprocess(image))
                want = encoder.images([image])[0]
            np.testing.assert_allclose(model.embed_image(path), want, rtol=0, atol=1e-6)


def run(*arguments: object, code: str = "") -> subprocess.CompletedProcess[str]:
    """The client as a program of its own, started where nothing of this repository comes first."""
    before = f"import runpy, sys; sys.argv[:] = {[str(CLIENT), *map(str, arguments)]!r}\n"
    after = f"runpy.run_path({str(CLIENT)!r}, run_name='__main__')\n{code}"
    return subprocess.run([sys.executable, "-P", "-c", before + after], capture_output=True, text=True, check=False)


def test_client_ranks_a_folder_without_torch_and_dmedge(onnx_bundle: Artifact, pictures: Path) -> None:
    forbidden = "print(sorted({name.split('.')[0] for name in sys.modules} & {'torch', 'dmedge', 'transformers'}))"
    done = run(onnx_bundle.root, pictures, "red apple", "--top", 3, code=forbidden)
    assert done.returncode == 0, done.stderr
    *ranking, imported = done.stdout.splitlines()
    assert imported == "[]"
    with Encoder(onnx_bundle) as encoder:
        files = sorted(path for path in pictures.rglob("*") if path.suffix != ".txt" and path.is_file())
        scores = encoder.images(ImageFiles(files)) @ encoder.texts(["red apple"])[0]
    best = np.argsort(-scores, kind="stable")[:3]
    assert ranking == [f"{scores[place]:.3f}  {files[place]}" for place in best]


@pytest.mark.parametrize("name", ["labels.json", "programs/encode_text.onnx", "manifest.json"])
def test_client_refuses_a_changed_file(name: str, onnx_bundle: Artifact, tmp_path: Path, pictures: Path) -> None:
    root = Path(shutil.copytree(onnx_bundle.root, tmp_path / "bundle"))
    content = (root / name).read_text("latin-1")
    (root / name).write_text(content.replace("embedding", "embeddinx").replace("label 1", "label 9"), "latin-1")
    done = run(root, pictures, "red apple")
    assert done.returncode == 1
    assert ("the manifest was changed" if name == "manifest.json" else f"{name}: differs") in done.stderr


def test_client_says_what_it_cannot_run(tiny_checkpoint: Artifact, pictures: Path) -> None:
    done = run(tiny_checkpoint.root, pictures, "red apple")
    assert done.returncode == 1
    assert "a checkpoint; expected a bundle" in done.stderr


def test_client_stays_short() -> None:
    assert len(CLIENT.read_text("utf-8").splitlines()) <= 120  # it is there to be read
