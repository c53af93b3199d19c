"""The texts of a conformance pack: every script, and what trips a careless tokenizer."""

import unicodedata
from collections.abc import Iterable, Iterator

from dmedge.data.emoji import load_pack
from dmedge.data.hf_tokenizer import AnyTokenizer
from dmedge.data.languages import script_of
from dmedge.data.tokenizer import Tokenizer

# Most are one normalisation away from another text: a client that leaves that out gets other token ids.
ODD_TEXTS = (
    "",
    "a",
    "RED apple",
    "café manzana 林檎",
    "cafe\u0301 A\u030a tie\u0302\u0301ng",  # combining marks in place of composed letters
    "i\u0307\u0323 q\u0323\u0307 z\u0336\u0321\u035d",  # and such that have none, in both orders
    "תפוח אדום",  # right to left
    "\u200fتفاحة حمراء 3 red\u200e",  # with marks of direction, digits and Latin
    "لا كتابـــة",  # a ligature and stretched letters
    "🍎",
    "👩🏽\u200d🚀 👨\u200d👩\u200d👧\u200d👦",  # joined by U+200D, with a skin tone
    "🏳\ufe0f\u200d🌈 🇯🇵🇺 1\ufe0f\u20e3",  # variation selectors, flags, half a flag, a keycap
    "🏴\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f",  # a flag spelled in tag characters
    "𝒜𝓹𝓅𝓁𝒆 𠮷野家 𐌰𐍀𐌻 𞤀𞤣",  # beyond the basic plane
    "ｱｯﾌﾟﾙ ｶﾞ ＡＰＰＬＥ ₩￦",  # half and full width
    "ﬁne ½ ① ™ Ⅷ ª",  # compatibility forms
    "STRASSE straße ΣΊΣΥΦΟΣ İstanbul ǅ",  # letters whose case is not one to one
    "trailing space ",
    " leading space",
    "two  spaces   three",
    "tab\tline\nreturn\r\nend\u00a0nbsp\u3000wide",
    "zero\u200bwidth \ufeffmark soft\u00adhyphen \u2028line",
    " ",
    "control \u0001\u007f\u0085 \ufffd \U0010ffff",
    "red apple " * 200,  # longer than any context
)


def golden_texts(tokenizer: AnyTokenizer) -> list[str]:
    """A text in every script that is trained on or stands in the vocabulary, and the odd ones; none twice."""
    texts = list(_texts_by_script().values())
    texts += _missing_scripts(tokenizer, [*texts, *ODD_TEXTS])
    return list(dict.fromkeys([*texts, *ODD_TEXTS]))


def _texts_by_script() -> dict[str, str]:
    """One name in every script of the embedded languages, each of another emoji."""
    pack = load_pack()
    texts: dict[str, str] = {}
    for number, locale in enumerate(pack.locales):
        names = [name for name in pack.names(locale) if name is not None]
        texts.setdefault(script_of(locale), names[number * 17 % len(names)])
    return texts


def _missing_scripts(tokenizer: AnyTokenizer, texts: Iterable[str]) -> list[str]:
    """The longest subword of each script that the vocabulary of a dmedge model holds and `texts` lack."""
    if not isinstance(tokenizer, Tokenizer):
        return []  # its pieces may be parts of letters
    known = {script for text in texts for script in scripts_in(text)}
    found: dict[str, str] = {}
    for piece in (tokenizer.piece(token) for token in range(tokenizer.vocab_size)):
        for script in scripts_in(piece):
            if script not in known and len(piece) > len(found.get(script, "")):
                found[script] = piece.replace("\u2581", " ")
    return [text for _, text in sorted(found.items())]


def scripts_in(text: str) -> Iterator[str]:
    """The first word of each letter's Unicode name, which is its script for all but a few."""
    for letter in text:
        if letter.isalpha():
            yield unicodedata.name(letter, "unnamed").partition(" ")[0]
