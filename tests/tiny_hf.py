"""Tiny random checkpoints of Hugging Face, written by `save_pretrained`, with tokenizers over a few scripts."""

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import sentencepiece
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers.utils import logging

logging.set_verbosity_error()
logging.disable_progress_bar()

TEXTS = (
    "a photo of a red apple",
    "Ein grüner Baum, daneben: ein HAUS!",
    "красный дом у реки",
    "ラーメン 一杯",
    "红色的苹果",
    "بيت أحمر كبير",
    "एक लाल घर",
    "빨간 사과 🍎",
    "ΟΔΟΣ İstanbul don't",
    "  two\n lines\tand\u00a0spaces  ",
    "\u2581marks\u2581 of x²",
    "",
    "a red apple by the river and a house " * 12,
)
BODY: Mapping[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
CONTEXT = 24


def make_random_(model: torch.nn.Module) -> Any:
    """Draw every weight anew, so that no branch is silent and no bias zero."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.startswith("logit_"):
                spread = 0.3 if parameter.dim() < 2 else parameter[0].numel() ** -0.5
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * spread)
                if parameter.dim() < 2 and name.endswith("weight"):
                    parameter.add_(1.0)
    return model.eval()


def clip_tokenizer() -> Any:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("r", "e"), ("re", "d</w>"), ("a", "p"), ("ap", "p"), ("h", "o"), ("o", "f</w>"), ("Ð", "¾")]
    pieces = [*letters, *(f"{letter}</w>" for letter in letters), *("".join(merge) for merge in merges)]
    pieces += ["<|startoftext|>", "<|endoftext|>"]
    vocab = {piece: i for i, piece in enumerate(pieces)}
    return transformers.CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=CONTEXT)


def bert_tokenizer() -> Any:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer.train_from_iterator(
        TEXTS[:-1], trainers.WordPieceTrainer(vocab_size=240, special_tokens=special, show_progress=False)
    )
    return transformers.BertTokenizer(vocab=tokenizer.get_vocab(), model_max_length=CONTEXT)


def xlmr_tokenizer() -> Any:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    tokenizer.train_from_iterator(
        TEXTS[:6],
        trainers.UnigramTrainer(vocab_size=200, special_tokens=special, unk_token="<unk>", show_progress=False),
    )
    scores = {piece: -float(i) for i, piece in enumerate(tokenizer.get_vocab())}
    pieces = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().__getitem__)
    vocab = [(piece, scores[piece]) for piece in pieces] + [("<mask>", 0.0)]
    return transformers.XLMRobertaTokenizer(vocab=vocab, model_max_length=CONTEXT)


def modernbert_tokenizer() -> Any:
    tokenizer = Tokenizer(models.BPE(unk_token=None))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        TEXTS[:4],
        trainers.BpeTrainer(vocab_size=300, special_tokens=special, initial_alphabet=alphabet, show_progress=False),
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=CONTEXT, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]"
    )


def siglip_tokenizer(folder: Path) -> Any:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS[:6] * 4),
        model_writer=model,
        vocab_size=180,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    path = folder / "spiece.model"
    path.write_bytes(model.getvalue())
    return transformers.SiglipTokenizer(
        str(path), pad_token="</s>", model_max_length=CONTEXT, model_input_names=["input_ids"]
    )


def siglip2_tokenizer() -> Any:
    pieces = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *(f"<0x{byte:02X}>" for byte in range(256))]
    merges = [("r", "e"), ("re", "d"), ("\u2581", "red"), ("a", "p"), ("о", "м")]
    letters = sorted({letter for merge in merges for part in merge for letter in part} | set("адекнорстуы\u2581"))
    pieces += [*letters, *("".join(merge) for merge in merges)]
    vocab = {piece: i for i, piece in enumerate(pieces)}
    tokenizer = transformers.Siglip2Tokenizer(
        vocab=vocab, merges=merges, padding_side="right", model_input_names=["input_ids"]
    )
    tokenizer._tokenizer.post_processor = processors.TemplateProcessing(
        single="$A <eos>", special_tokens=[("<eos>", 1)]
    )
    return tokenizer


def clip_processor(size: int = 32, edge: int = 32) -> Any:
    return transformers.CLIPImageProcessorPil(size={"shortest_edge": edge}, crop_size={"height": size, "width": size})


def siglip_processor(size: int = 32) -> Any:
    return transformers.SiglipImageProcessorPil(size={"height": size, "width": size})


def vit_processor(size: int = 32) -> Any:
    return transformers.ViTImageProcessorPil(
        size={"height": size, "width": size}, image_mean=[0.4, 0.5, 0.6], image_std=[0.2, 0.3, 0.25]
    )


def dinov2_processor(size: int = 28, edge: int = 36) -> Any:
    return transformers.BitImageProcessorPil(size={"shortest_edge": edge}, crop_size={"height": size, "width": size})


def mobilevit_processor(size: int = 64, edge: int = 72) -> Any:
    return transformers.MobileViTImageProcessorPil(
        size={"shortest_edge": edge}, crop_size={"height": size, "width": size}, resample=2
    )


def _save(folder: Path, model: Any, *parts: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for part in (make_random_(model), *parts):
        part.save_pretrained(folder)
    return folder


def _text_size(tokenizer: Any) -> dict[str, Any]:
    return {"vocab_size": len(tokenizer), "max_position_embeddings": CONTEXT, **BODY}


def write_clip(folder: Path, tokenizer: Any = None) -> Path:
    tokenizer = tokenizer or clip_tokenizer()
    config = transformers.CLIPConfig(
        text_config={**_text_size(tokenizer), "bos_token_id": len(tokenizer) - 2, "eos_token_id": len(tokenizer) - 1},
        vision_config={"image_size": 32, "patch_size": 8, **BODY, "hidden_size": 40},
        projection_dim=20,
    )
    return _save(folder, transformers.CLIPModel(config), transformers.CLIPProcessor(clip_processor(), tokenizer))


def write_siglip(folder: Path, make: Callable[[Path], Any] = siglip_tokenizer) -> Path:
    folder.mkdir(parents=True)
    tokenizer = make(folder)
    config = transformers.SiglipConfig(
        text_config={**_text_size(tokenizer), "projection_size": 40},
        vision_config={"image_size": 32, "patch_size": 8, **BODY, "hidden_size": 40},
    )
    processor = transformers.SiglipProcessor(siglip_processor(), tokenizer)
    return _save(folder, transformers.SiglipModel(config), processor)


def write_siglip2(folder: Path, tokenizer: Any = None) -> Path:
    tokenizer = tokenizer or siglip2_tokenizer()
    config = transformers.SiglipConfig(
        text_config=_text_size(tokenizer), vision_config={"image_size": 32, "patch_size": 8, **BODY}
    )
    processor = transformers.SiglipProcessor(siglip_processor(), tokenizer)
    return _save(folder, transformers.SiglipModel(config), processor)


def write_naflex(folder: Path) -> Path:
    tokenizer = siglip2_tokenizer()
    config = transformers.Siglip2Config(
        text_config=_text_size(tokenizer), vision_config={"num_patches": 16, "patch_size": 8, **BODY}
    )
    return _save(folder, transformers.Siglip2Model(config), tokenizer)


def write_vit_bert(folder: Path, tokenizer: Any = None) -> Path:
    tokenizer = tokenizer or bert_tokenizer()
    config = transformers.VisionTextDualEncoderConfig(
        vision_config={"model_type": "vit", "image_size": 32, "patch_size": 8, **BODY, "hidden_size": 40},
        text_config={"model_type": "bert", **_text_size(tokenizer)},
        projection_dim=20,
    )
    processor = transformers.VisionTextDualEncoderProcessor(vit_processor(), tokenizer)
    return _save(folder, transformers.VisionTextDualEncoderModel(config), processor)


def write_clip_xlmr(folder: Path, tokenizer: Any = None) -> Path:
    tokenizer = tokenizer or xlmr_tokenizer()
    text = {"model_type": "xlm-roberta", **_text_size(tokenizer), "max_position_embeddings": CONTEXT + 2}
    config = transformers.VisionTextDualEncoderConfig(
        vision_config={"model_type": "clip_vision_model", "image_size": 32, "patch_size": 8, **BODY},
        text_config=text | {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2},
        projection_dim=20,
    )
    processor = transformers.VisionTextDualEncoderProcessor(clip_processor(), tokenizer)
    return _save(folder, transformers.VisionTextDualEncoderModel(config), processor)


DUALS: Mapping[str, Callable[[Path], Path]] = {
    "clip": write_clip,
    "siglip": write_siglip,
    "siglip2": write_siglip2,
    "vit-bert": write_vit_bert,
    "clip-xlmr": write_clip_xlmr,
}


def write_image(kind: str, folder: Path) -> Path:
    """One image encoder with its image processor."""
    size = {"image_size": 32, "patch_size": 8, **BODY}
    match kind:
        case "vit":
            return _save(folder, transformers.ViTModel(transformers.ViTConfig(**size)), vit_processor())
        case "dinov2":
            config = transformers.Dinov2Config(**(size | {"image_size": 70, "patch_size": 14}))
            return _save(folder, transformers.Dinov2Model(config), dinov2_processor())
        case "clip-vision":
            model = transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**size))
            return _save(folder, model, clip_processor())
        case "siglip-vision":
            model = transformers.SiglipVisionModel(transformers.SiglipVisionConfig(**size))
            return _save(folder, model, siglip_processor())
    assert kind == "mobilevit"
    config = transformers.MobileViTConfig(
        image_size=64, hidden_sizes=[16, 20, 24], neck_hidden_sizes=[8, 8, 12, 16, 16, 20, 32], num_attention_heads=4
    )
    return _save(folder, transformers.MobileViTModel(config), mobilevit_processor())


def write_text(kind: str, folder: Path) -> Path:
    """One text encoder with its tokenizer."""
    if kind in ("siglip-text", "siglip2-text"):
        folder.mkdir(parents=True)
        tokenizer = siglip_tokenizer(folder) if kind == "siglip-text" else siglip2_tokenizer()
        name = "Siglip" if kind == "siglip-text" else "Siglip2"
        config = getattr(transformers, f"{name}TextConfig")(**_text_size(tokenizer), projection_size=32)
        return _save(folder, getattr(transformers, f"{name}TextModel")(config), tokenizer)
    if kind == "clip-text":
        tokenizer = clip_tokenizer()
        ends = {"bos_token_id": len(tokenizer) - 2, "eos_token_id": len(tokenizer) - 1}
        return _save(
            folder, transformers.CLIPTextModel(transformers.CLIPTextConfig(**_text_size(tokenizer), **ends)), tokenizer
        )
    if kind in ("roberta", "xlm-roberta", "camembert", "mpnet"):
        tokenizer, special = xlmr_tokenizer(), {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
        special["max_position_embeddings"] = CONTEXT + 2
    elif kind == "modernbert":
        tokenizer = modernbert_tokenizer()
        special = {"pad_token_id": 3, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}
        special["local_attention"] = 8
    else:
        tokenizer, special = bert_tokenizer(), {"pad_token_id": 0}
    size = _text_size(tokenizer) | special
    if kind == "distilbert":
        size = {**size, "dim": 32, "hidden_dim": 48, "n_layers": BODY["num_hidden_layers"], "n_heads": 4}
        for name in BODY:
            del size[name]
    config = transformers.AutoConfig.for_model(kind, **size)
    return _save(folder, transformers.AutoModel.from_config(config), tokenizer)


IMAGES = ("vit", "dinov2", "clip-vision", "siglip-vision", "mobilevit")
TEXT_KINDS = (
    "clip-text",
    "siglip-text",
    "siglip2-text",
    "bert",
    "distilbert",
    "electra",
    "mpnet",
    "roberta",
    "camembert",
    "xlm-roberta",
    "modernbert",
)
