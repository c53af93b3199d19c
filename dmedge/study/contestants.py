"""Small models of four families, to be trained from scratch on the same pairs.

Each reads uint8 [B, 32, 32, 3] pixels and token ids, and names the class of the pair. Those with two
encoders also embed both sides; those that mix them from the start score whether they match.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dmedge.model.attention import Attention, Block, FeedForward, attention_bias
from dmedge.model.config import ModelConfig
from dmedge.model.dual import DualEncoder
from dmedge.model.image import ConvNet
from dmedge.model.text import masked_mean

IMAGE_SIZE, IMAGE_WIDTH = 32, 32
WIDTH, HEADS, LAYERS = 128, 4, 2
CONTEXT = 32
CLIP_PATCH = 4  # pixels; a ViT over larger ones sees nothing in 32 pixels


class Outputs(NamedTuple):
    """What a contestant says of a batch; None where its family has no such output."""

    classes: Tensor  # [B, C] logits
    match: Tensor | None  # [B] logits
    image: Tensor | None  # [B, D], unit norm
    text: Tensor | None  # [B, D], unit norm


Contestant = Callable[[Tensor, Tensor, Tensor], Outputs]


class Dmedge(nn.Module):
    """The dual encoder with cross-attention fusion of this package."""

    def __init__(self, vocab_size: int, classes: int, members: Tensor | None = None) -> None:
        """Build it; with [classes, concepts] `members` it has the concept head and its votes."""
        super().__init__()
        concepts = 0 if members is None else members.shape[1]
        config = _tower_config(vocab_size, classes, concepts=concepts)
        self.model = DualEncoder(config)
        if members is not None:
            assert self.model.fusion is not None and self.model.fusion.votes is not None
            self.model.fusion.votes.members.copy_(members)

    def forward(self, pixels: Tensor, ids: Tensor, mask: Tensor) -> Outputs:
        """Fuse pairs, and embed both sides: before the concept head in training, with it afterwards."""
        image, patches = self.model.image_features(pixels)
        text, tokens = self.model.text_features(ids, mask)
        match, classes = self.model.fuse(patches, tokens, mask)
        if not self.training:
            image, text = self.model.embed(image), self.model.embed(text)
        return Outputs(classes, match, image, text)


class ClipStyle(nn.Module):
    """Two transformers that meet in one embedding, and a linear classifier of both embeddings.

    Source: Radford et al. 2021, arXiv:2103.00020; `transformers.CLIPModel`.
    """

    def __init__(self, vocab_size: int, classes: int) -> None:
        super().__init__()
        from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPVisionConfig

        shape = {"hidden_size": WIDTH, "intermediate_size": 4 * WIDTH, "num_attention_heads": HEADS}
        text = CLIPTextConfig(
            vocab_size=vocab_size + 1,  # and the end token, which no text holds
            max_position_embeddings=CONTEXT,
            num_hidden_layers=LAYERS,
            bos_token_id=0,
            eos_token_id=vocab_size,
            **shape,
        )
        vision = CLIPVisionConfig(image_size=IMAGE_SIZE, patch_size=CLIP_PATCH, num_hidden_layers=2 * LAYERS, **shape)
        self.clip = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=WIDTH))
        self.end = vocab_size
        self.classify = nn.Linear(2 * WIDTH, classes)

    def forward(self, pixels: Tensor, ids: Tensor, mask: Tensor) -> Outputs:
        """Embed both sides and classify the pair of embeddings."""
        closed = F.pad(ids * mask, (0, 1)).long()
        closed[torch.arange(len(ids)), mask.sum(1).long()] = self.end  # CLIP reads its text off an end token
        floats = pixels.permute(0, 3, 1, 2).float() / 127.5 - 1
        found = self.clip(input_ids=closed, pixel_values=floats, attention_mask=F.pad(mask, (1, 0), value=1))
        image, text = (F.normalize(side, dim=-1) for side in (found.image_embeds, found.text_embeds))
        return Outputs(self.classify(torch.cat([image, text], dim=-1) * WIDTH**0.5), None, image, text)


class LxmertStyle(nn.Module):
    """Two streams with cross-modality layers, over a grid of patches in place of detected objects.

    Source: Tan and Bansal 2019, arXiv:1908.07490; `transformers.LxmertModel`.
    """

    def __init__(self, vocab_size: int, classes: int) -> None:
        super().__init__()
        from transformers import LxmertConfig, LxmertModel

        self.trunk = ConvNet(_tower_config(vocab_size, classes))
        config = LxmertConfig(
            vocab_size=vocab_size,
            hidden_size=WIDTH,
            num_attention_heads=HEADS,
            intermediate_size=4 * WIDTH,
            max_position_embeddings=CONTEXT,
            l_layers=LAYERS,
            r_layers=1,
            x_layers=LAYERS,
            visual_feat_dim=self.trunk.out_width,
        )
        self.lxmert = LxmertModel(config)
        self.register_buffer("boxes", _boxes(IMAGE_SIZE // 8), persistent=False)
        self.classify, self.match = nn.Linear(WIDTH, classes), nn.Linear(WIDTH, 1)

    def forward(self, pixels: Tensor, ids: Tensor, mask: Tensor) -> Outputs:
        """Classify the pooled first token, as the paper does."""
        _, patches = self.trunk(pixels)
        boxes = self.get_buffer("boxes").expand(len(pixels), -1, -1)
        found = self.lxmert(
            input_ids=(ids * mask).long(), visual_feats=patches, visual_pos=boxes, attention_mask=mask
        ).pooled_output
        return Outputs(self.classify(found), self.match(found).squeeze(-1), None, None)


class CoAttention(nn.Module):
    """Each stream attends to the other, then to itself."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(4))
        self.text_sees, self.image_sees = Attention(WIDTH, HEADS), Attention(WIDTH, HEADS)
        self.text_forward, self.image_forward = FeedForward(WIDTH), FeedForward(WIDTH)
        self.text_block, self.image_block = Block(WIDTH, HEADS), Block(WIDTH, HEADS)

    def forward(self, image: Tensor, text: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Map [B, P, W] patches and [B, L, W] tokens to the same shapes under the bias of the text's padding."""
        image_norm, text_norm, image_second, text_second = self.norms
        patches, tokens = image_norm(image), text_norm(text)
        image = image + self.image_sees(patches, tokens, bias)
        text = text + self.text_sees(tokens, patches)
        image = image + self.image_forward(image_second(image))
        text = text + self.text_forward(text_second(text))
        return self.image_block(image), self.text_block(text, bias)


class VilbertStyle(nn.Module):
    """A text stream and an image stream joined by co-attention; the product of both ends is read.

    Not among the models of transformers; a small configuration after Lu et al. 2019, arXiv:1908.02265,
    figure 2 and section 3, with pre-norm blocks and the mean of each stream for its first token.
    """

    def __init__(self, vocab_size: int, classes: int) -> None:
        super().__init__()
        self.trunk = ConvNet(_tower_config(vocab_size, classes))
        self.patch = nn.Linear(self.trunk.out_width + 4, WIDTH)
        self.register_buffer("boxes", _boxes(IMAGE_SIZE // 8), persistent=False)
        self.token = nn.Embedding(vocab_size, WIDTH)
        self.position = nn.Parameter(torch.zeros(CONTEXT, WIDTH))
        nn.init.normal_(self.token.weight, std=0.02)
        self.text_blocks = nn.ModuleList(Block(WIDTH, HEADS) for _ in range(LAYERS))
        self.co_attention = nn.ModuleList(CoAttention() for _ in range(LAYERS))
        self.classify, self.match = nn.Linear(WIDTH, classes), nn.Linear(WIDTH, 1)

    def forward(self, pixels: Tensor, ids: Tensor, mask: Tensor) -> Outputs:
        """Classify the product of the pooled streams."""
        _, patches = self.trunk(pixels)
        boxes = self.get_buffer("boxes").expand(len(pixels), -1, -1)
        image = self.patch(torch.cat([patches, boxes], dim=-1))
        bias = attention_bias(mask, HEADS)
        text = self.token(ids) + self.position[: ids.shape[1]]
        for block in self.text_blocks:
            text = block(text, bias)
        for layer in self.co_attention:
            image, text = layer(image, text, bias)
        joint = image.mean(1) * masked_mean(text, mask)
        return Outputs(self.classify(joint), self.match(joint).squeeze(-1), None, None)


def _tower_config(vocab_size: int, classes: int, concepts: int = 0) -> ModelConfig:
    return ModelConfig(
        vocab_size=vocab_size,
        classes=classes,
        image_size=IMAGE_SIZE,
        image_width=IMAGE_WIDTH,
        text_width=WIDTH,
        text_layers=LAYERS,
        text_heads=HEADS,
        context_length=CONTEXT,
        concepts=concepts,
        embed_dim=concepts or WIDTH,
    )


def _boxes(side: int) -> Tensor:
    """[side * side, 4] left, top, right, bottom of a grid's cells, row-major, within 0..1."""
    top, left = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    corners = torch.stack([left, top, left + 1, top + 1], dim=-1).reshape(-1, 4)
    return corners.float() / side


FAMILIES: Mapping[str, Callable[[int, int], nn.Module]] = {
    "dmedge": Dmedge,
    "CLIP-style": ClipStyle,
    "LXMERT-style": LxmertStyle,
    "ViLBERT-style": VilbertStyle,
}
