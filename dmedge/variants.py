"""The variants of a bundle: which programs of a model it carries."""

from collections.abc import Mapping
from typing import Literal

from dmedge.manifest import Manifest

Variant = Literal["full", "dual", "image-only", "text-only", "fused", "prompts"]

# A model without fusion has no "fuse".
VARIANTS: Mapping[Variant, tuple[str, ...]] = {
    "full": ("encode_image", "encode_text", "fuse"),
    "dual": ("encode_image", "encode_text"),
    "image-only": ("encode_image",),
    "text-only": ("encode_text",),
    "fused": ("fuse_pair",),
    "prompts": ("classify",),
}
DESCRIPTIONS: Mapping[Variant, str] = {
    "full": "both encoders and, where the model fuses, the fusion of what they return",
    "dual": "both encoders",
    "image-only": "the image encoder, for embeddings of pictures",
    "text-only": "the text encoder, for queries against embeddings of pictures that are there already",
    "fused": "one program from a picture and a text to match, class and answer",
    "prompts": "one program from a picture to the scores of given texts, whose embeddings are stored in it",
}


def variant_of(manifest: Manifest) -> Variant:
    """Which variant a bundle is; one that was made before there were variants is "full"."""
    found = manifest.config.get("variant", "full")
    return next((variant for variant in VARIANTS if variant == found), "full")


def bundle_name(target: str, variant: str) -> str:
    """How the directory of a bundle is called unless it is named: the target, and the variant if it is not all."""
    return target if variant == "full" else f"{target}-{variant}"
