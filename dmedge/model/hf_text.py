"""The tokenizer of an imported model, with the rules that its own code applies around the vocabulary."""

from pathlib import Path
from typing import Any

from dmedge.data.hf_tokenizer import RULES, VOCABULARIES, HfTokenizer, TokenizerRules, rules_json
from dmedge.errors import DataError, require
from dmedge.model.hf import quietly
from dmedge.model.hf_source import Source

FILLED = ("siglip_text_model", "siglip2_text_model")  # trained on texts filled up to the whole context
OFFSET = ("roberta", "xlm-roberta", "camembert", "mpnet")  # their positions begin behind that of the padding


def positions(config: Any) -> int:
    """Most tokens that a text encoder takes."""
    offset = (1 if config.model_type == "mpnet" else int(config.pad_token_id)) + 1 if config.model_type in OFFSET else 0
    return int(config.max_position_embeddings) - offset


def read_tokenizer(source: Source, model_type: str, limit: int) -> HfTokenizer:
    """The tokenizer that is saved with a checkpoint, cut at `limit` tokens or at its own limit.

    Raises:
        DataError: there is none, or one that only transformers can run.
    """
    with quietly() as transformers:
        try:
            original = transformers.AutoTokenizer.from_pretrained(
                source.folder, local_files_only=True, trust_remote_code=False
            )
        except (OSError, ValueError, ImportError) as error:
            raise DataError(
                f"{source.name}: its tokenizer cannot be read ({error}); expected its files beside the weights"
            ) from error
        context_length = int(min(limit, original.model_max_length))
        common: dict[str, Any] = {
            "pad_id": original.pad_token_id or 0,
            "truncation_side": original.truncation_side,
        }
        if model_type in FILLED:
            masks = "attention_mask" in original.model_input_names
            common |= {"pads": True, "masks": masks, "padding_side": original.padding_side}
        if getattr(original, "backend_tokenizer", None) is not None:
            content = _plain(original.backend_tokenizer.to_str())
            rules = TokenizerRules(kind="tokenizers", **common)
        elif type(original).__name__ == "SiglipTokenizer":
            content = Path(original.vocab_file).read_bytes()
            rules = TokenizerRules(
                kind="sentencepiece",
                end_id=original.eos_token_id,
                lowercases=bool(original.do_lower_case),
                strips_punctuation=True,
                **common,
            )
        else:
            raise DataError(
                f"{source.name}: a {type(original).__name__}, which runs in Python only; "
                "expected one with a tokenizer.json; choose another model"
            )
    return HfTokenizer({RULES: rules_json(rules), VOCABULARIES[rules.kind]: content}, context_length)


def _plain(content: str) -> bytes:
    """A tokenizer.json that neither cuts nor fills by itself."""
    tokenizer = require("tokenizers", "train").Tokenizer.from_str(content)
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return bytes(tokenizer.to_str().encode())
