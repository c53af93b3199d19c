"""Fusions of image and text, and the heads that read them: match, class, answer."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dmedge.model.attention import Attention, FeedForward, zero_
from dmedge.model.config import ModelConfig
from dmedge.model.text import masked_mean

LEAST_SHARE = 1e-4  # of a class or an agreement, so that its logarithm stays finite


class ConceptVotes(nn.Module):
    """What the concepts that the image and the text may mean say of class and match.

    A class gets the summed probability of its concepts from each side; the logarithms add up, which
    is the product of two independent experts (Hinton 2002, doi:10.1162/089976602760128018). How far
    each expert is trusted is read from the pair itself, since a blank side has nothing to say.
    """

    members: Tensor
    heard: Tensor

    def __init__(self, width: int, concepts: int, classes: int, modality: str) -> None:
        super().__init__()
        self.register_buffer("members", torch.zeros(classes, concepts))  # 1 where a concept is of a class
        heard = (modality != "text", modality != "vision", modality not in ("text", "vision"))
        self.register_buffer("heard", torch.tensor(heard, dtype=torch.float32), persistent=False)
        self.trust = nn.Linear(width, 3)  # in image, text and agreement
        zero_(self.trust)

    def forward(self, hidden: Tensor, image: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """Match [B] and class [B, C] logits of [B, concepts] shares; `hidden` is [B, W]."""
        trust = 2 * torch.sigmoid(self.trust(hidden)) * self.heard  # 1 at the start
        by_image, by_text = (torch.log(F.linear(share, self.members) + LEAST_SHARE) for share in (image, text))
        agreement = (F.normalize(image, dim=-1) * F.normalize(text, dim=-1)).sum(-1)
        match = trust[:, 2] * torch.log(agreement + LEAST_SHARE)
        return match, trust[:, :1] * by_image + trust[:, 1:2] * by_text


class FusionHead(nn.Module):
    """Fuse a pair into one vector, and read match, class and answer logits from it.

    The vector is made of the text, the image and their product ("cross-attention", where the text
    tokens look at the patches first), of text and image ("concatenation"), or of the product alone.
    The product makes agreement linear; either side alone still carries information when the other
    is blank.
    """

    def __init__(self, config: ModelConfig, patch_width: int, width: int, hidden: int | None = None) -> None:
        """Build the modules for patches and tokens of these widths; `hidden` is the vector's [default: `width`]."""
        super().__init__()
        hidden = width if hidden is None else hidden
        self.kind, self.modality = config.fusion, config.modality
        self.attends = config.fusion == "cross-attention" and config.modality == "full"
        if self.attends:
            self.patch = nn.Linear(patch_width, width)
            self.patch_norm = nn.LayerNorm(width)
            self.token_norm = nn.LayerNorm(width)
            self.attention = Attention(width, config.fusion_heads)
            self.feed_forward_norm = nn.LayerNorm(width)
            self.feed_forward = FeedForward(width, expansion=2)
            zero_(self.attention.out)
            zero_(self.feed_forward.down)
        self.image_projection = nn.Linear(patch_width, width)
        self.text_projection = nn.Linear(width, width)
        self.joint = nn.Linear(self._parts * width, hidden)
        self.match = nn.Linear(hidden, 1)
        self.classify = nn.Linear(hidden, config.classes) if config.classes else None
        self.answer = nn.Linear(hidden, config.answers) if config.answers else None
        has_votes = config.concepts and config.classes
        self.votes = ConceptVotes(hidden, config.concepts, config.classes, config.modality) if has_votes else None
        self.gain = width**0.5  # of unit vectors, so that a number in them is about 1

    @property
    def _parts(self) -> int:
        if self.modality in ("vision", "text") or self.kind == "product":
            return 1
        return 2 if self.kind == "concatenation" else 3

    def forward(
        self, patches: Tensor, tokens: Tensor, mask: Tensor, shares: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, ...]:
        """Fuse [B, P, V] patches and [B, L, W] tokens.

        Args:
            patches: of the image tower.
            tokens: of the text tower.
            mask: [B, L], 1 on tokens.
            shares: [B, concepts] probabilities that the image and the text mean each concept; None
                for a model without concepts.

        Returns:
            match logits [B]; class logits [B, classes] and answer logits [B, answers] where the
            model has such a head.
        """
        hidden = self.fused(patches, tokens, mask)
        match = self.match(hidden).squeeze(-1)
        classes = None if self.classify is None else self.classify(hidden)
        if self.votes is not None and shares is not None:
            by_agreement, by_concept = self.votes(hidden, *shares)
            match, classes = match + by_agreement, classes + by_concept
        answers = None if self.answer is None else self.answer(hidden)
        return tuple(output for output in (match, classes, answers) if output is not None)

    def fused(self, patches: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        """The [B, hidden] vector that the heads read."""
        if self.attends:
            tokens = tokens + self.attention(self.token_norm(tokens), self.patch_norm(self.patch(patches)))
            tokens = tokens + self.feed_forward(self.feed_forward_norm(tokens))
        text = F.normalize(self.text_projection(masked_mean(tokens, mask)), dim=-1) * self.gain
        image = F.normalize(self.image_projection(patches.mean(1)), dim=-1) * self.gain
        match self.modality, self.kind:
            case "vision", _:
                parts = [image]
            case "text", _:
                parts = [text]
            case _, "concatenation":
                parts = [text, image]
            case _, "product":
                parts = [text * image]
            case _:
                parts = [text, image, text * image]
        return F.gelu(self.joint(torch.cat(parts, dim=-1)))

    def attention_map(self, patches: Tensor, tokens: Tensor) -> Tensor:
        """Return [B * heads, L, P]: where each text token looks in the image.

        Raises:
            ValueError: this fusion has no cross-attention.
        """
        if not self.attends:
            raise ValueError(f"fusion {self.kind!r} of modality {self.modality!r} has no cross-attention to look at")
        return self.attention.weights(self.token_norm(tokens), self.patch_norm(self.patch(patches)))
