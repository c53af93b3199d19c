"""Search a folder of pictures by text, in any language, with a dmedge bundle and nothing of dmedge.

Read this file to port a bundle to your app: it is all that a client has to do. It needs the files of the
bundle and four libraries (numpy, onnxruntime, sentencepiece, pillow); every step names its file.

    python search.py BUNDLE PICTURES "red apple"
"""

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import sentencepiece
from PIL import Image, ImageOps

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")


def read_manifest(bundle: Path) -> dict[str, Any]:
    """manifest.json, after checking its own digest, and the size and sha256 of every file it names."""
    manifest: dict[str, Any] = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
    digest = manifest.pop("digest")
    canonical = json.dumps(manifest, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    if hashlib.sha256(canonical.encode()).hexdigest() != digest:
        raise SystemExit(f"{bundle}: the manifest was changed")
    if (manifest["schema_version"], manifest["kind"]) != (1, "bundle"):
        raise SystemExit(f"{bundle}: a {manifest['kind']}; expected a bundle of schema version 1")
    for name, want in manifest["files"].items():
        content = (bundle / name).read_bytes()
        if (len(content), hashlib.sha256(content).hexdigest()) != (want["size_bytes"], want["sha256"]):
            raise SystemExit(f"{bundle / name}: differs from the manifest")
    return manifest


class Model:
    """The two encoders of a bundle; both embed into one space, where the dot product is the similarity."""

    def __init__(self, bundle: Path) -> None:
        manifest = read_manifest(bundle)
        programs = [program for program in manifest["programs"] if program["runtime"] == "onnxruntime"]
        self.programs = {program["name"]: program for program in programs}
        if not {"encode_image", "encode_text"} <= self.programs.keys():
            raise SystemExit(f"{bundle}: not both encoders for onnxruntime; export it with --target linux-x86_64")
        self.preprocessing = json.loads((bundle / "preprocessor_config.json").read_text(encoding="utf-8"))
        known = {"fit": "pad-centre", "resample": "bilinear-antialiased"}
        if not known.items() <= self.preprocessing.items() or not (bundle / "tokenizer.model").exists():
            raise SystemExit(f"{bundle}: its preprocessing or tokenizer is an imported model's, unknown to this client")
        options, cpu = onnxruntime.SessionOptions(), ["CPUExecutionProvider"]
        options.add_session_config_entry("session.x64quantprecision", "1")  # int8 overflows on older x86 without it
        self.sessions = {
            name: onnxruntime.InferenceSession(str(bundle / program["file"]), options, providers=cpu)
            for name, program in self.programs.items()
        }
        self.context_length: int = manifest["summary"]["context_length"]  # tokens, at most
        self.tokenizer = sentencepiece.SentencePieceProcessor(model_file=str(bundle / "tokenizer.model"))

    def embed_text(self, text: str) -> np.ndarray:
        """One text as a unit vector, float32 [D]. Lower case and Unicode forms are the tokenizer's business."""
        ids = np.array([self.token_ids(text)], np.int32)
        return self.run("encode_text", ids, np.ones_like(ids))  # the mask is 1 on every real token

    def embed_image(self, path: Path) -> np.ndarray:
        """One picture as a unit vector, float32 [D]. Scaling to floats and normalisation are inside the program."""
        with Image.open(path) as image:
            return self.run("encode_image", self.pixels(image)[None])

    def run(self, name: str, *inputs: np.ndarray) -> np.ndarray:
        """The first output of a program, its embedding; inputs come in the order of the manifest."""
        names = [spec["name"] for spec in self.programs[name]["inputs"]]
        output = self.programs[name]["outputs"][0]["name"]
        embeddings: list[np.ndarray] = self.sessions[name].run([output], dict(zip(names, inputs, strict=True)))[0]
        return embeddings[0]

    def token_ids(self, text: str) -> list[int]:
        """Token ids, no begin or end tokens; text that holds nothing is one unknown token."""
        return self.tokenizer.encode(text)[: self.context_length] or [self.tokenizer.unk_id()]

    def pixels(self, image: Image.Image) -> np.ndarray:
        """Uint8 [size, size, 3]: upright, on a plain background, longest side to `size`, padded to a square."""
        size, background = self.preprocessing["size"], tuple(self.preprocessing["background"])
        image = ImageOps.exif_transpose(image)
        if image.mode.startswith("I;16"):  # 16-bit grey: keep the upper eight bits
            image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        if image.has_transparency_data:
            back = Image.new("RGBA", image.size, (*background, 255))
            image = Image.alpha_composite(back, image.convert("RGBA"))
        image = image.convert("RGB")
        scale = size / max(image.size)
        width, height = (max(1, round(side * scale)) for side in image.size)
        square = Image.new("RGB", (size, size), background)
        resized = image.resize((width, height), Image.Resampling.BILINEAR)  # antialiased when it shrinks
        square.paste(resized, ((size - width) // 2, (size - height) // 2))
        return np.asarray(square)


def main() -> None:
    """Print the pictures that fit the query best, with their similarity."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path, help="directory made by: dmedge export --target linux-x86_64")
    parser.add_argument("pictures", type=Path, help="folder of pictures")
    parser.add_argument("query", help="a word or a phrase in any language")
    parser.add_argument("--top", type=int, default=5, help="pictures to print")
    arguments = parser.parse_args()
    model = Model(arguments.bundle)
    files = sorted(path for path in arguments.pictures.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not files:
        raise SystemExit(f"{arguments.pictures}: no pictures")
    gallery = np.stack([model.embed_image(path) for path in files])  # an app keeps these
    scores = gallery @ model.embed_text(arguments.query)
    for place in np.argsort(-scores, kind="stable")[: arguments.top]:
        print(f"{scores[place]:.3f}  {files[place]}")


if __name__ == "__main__":
    main()
