"""The 100 locales of the pack, which are 96 languages: four languages come in two scripts."""

import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import NamedTuple

from dmedge.config import near_match
from dmedge.errors import ConfigError, DataError


class Language(NamedTuple):
    """English name of a locale, and the ISO 15924 code of its script (Jpan and Kore mix several)."""

    name: str
    script: str


LANGUAGES = {
    "af": Language("Afrikaans", "Latn"),
    "am": Language("Amharic", "Ethi"),
    "ar": Language("Arabic", "Arab"),
    "as": Language("Assamese", "Beng"),
    "az": Language("Azerbaijani", "Latn"),
    "ba": Language("Bashkir", "Cyrl"),
    "be": Language("Belarusian", "Cyrl"),
    "bg": Language("Bulgarian", "Cyrl"),
    "bn": Language("Bangla", "Beng"),
    "bs": Language("Bosnian", "Latn"),
    "ca": Language("Catalan", "Latn"),
    "chr": Language("Cherokee", "Cher"),
    "cs": Language("Czech", "Latn"),
    "cv": Language("Chuvash", "Cyrl"),
    "cy": Language("Welsh", "Latn"),
    "de": Language("German", "Latn"),
    "dsb": Language("Lower Sorbian", "Latn"),
    "el": Language("Greek", "Grek"),
    "en": Language("English", "Latn"),
    "es": Language("Spanish", "Latn"),
    "et": Language("Estonian", "Latn"),
    "eu": Language("Basque", "Latn"),
    "fa": Language("Persian", "Arab"),
    "fi": Language("Finnish", "Latn"),
    "fil": Language("Filipino", "Latn"),
    "fo": Language("Faroese", "Latn"),
    "fr": Language("French", "Latn"),
    "ga": Language("Irish", "Latn"),
    "gd": Language("Scottish Gaelic", "Latn"),
    "gl": Language("Galician", "Latn"),
    "gu": Language("Gujarati", "Gujr"),
    "ha": Language("Hausa", "Latn"),
    "he": Language("Hebrew", "Hebr"),
    "hi": Language("Hindi", "Deva"),
    "hr": Language("Croatian", "Latn"),
    "hsb": Language("Upper Sorbian", "Latn"),
    "hu": Language("Hungarian", "Latn"),
    "hy": Language("Armenian", "Armn"),
    "id": Language("Indonesian", "Latn"),
    "is": Language("Icelandic", "Latn"),
    "it": Language("Italian", "Latn"),
    "ja": Language("Japanese", "Jpan"),
    "jv": Language("Javanese", "Latn"),
    "ka": Language("Georgian", "Geor"),
    "kk": Language("Kazakh", "Cyrl"),
    "kk-Arab": Language("Kazakh (Arabic)", "Arab"),
    "km": Language("Khmer", "Khmr"),
    "kn": Language("Kannada", "Knda"),
    "ko": Language("Korean", "Kore"),
    "kok": Language("Konkani", "Deva"),
    "ky": Language("Kyrgyz", "Cyrl"),
    "lo": Language("Lao", "Laoo"),
    "lt": Language("Lithuanian", "Latn"),
    "lv": Language("Latvian", "Latn"),
    "mk": Language("Macedonian", "Cyrl"),
    "ml": Language("Malayalam", "Mlym"),
    "mn": Language("Mongolian", "Cyrl"),
    "mr": Language("Marathi", "Deva"),
    "ms": Language("Malay", "Latn"),
    "my": Language("Burmese", "Mymr"),
    "ne": Language("Nepali", "Deva"),
    "nl": Language("Dutch", "Latn"),
    "no": Language("Norwegian", "Latn"),
    "or": Language("Odia", "Orya"),
    "pa": Language("Punjabi", "Guru"),
    "pcm": Language("Nigerian Pidgin", "Latn"),
    "pl": Language("Polish", "Latn"),
    "ps": Language("Pashto", "Arab"),
    "pt": Language("Portuguese", "Latn"),
    "rm": Language("Romansh", "Latn"),
    "ro": Language("Romanian", "Latn"),
    "ru": Language("Russian", "Cyrl"),
    "sd": Language("Sindhi", "Arab"),
    "shn": Language("Shan", "Mymr"),
    "si": Language("Sinhala", "Sinh"),
    "sk": Language("Slovak", "Latn"),
    "sl": Language("Slovenian", "Latn"),
    "so": Language("Somali", "Latn"),
    "sq": Language("Albanian", "Latn"),
    "sr": Language("Serbian", "Cyrl"),
    "sr-Latn": Language("Serbian (Latin)", "Latn"),
    "sv": Language("Swedish", "Latn"),
    "sw": Language("Swahili", "Latn"),
    "ta": Language("Tamil", "Taml"),
    "te": Language("Telugu", "Telu"),
    "th": Language("Thai", "Thai"),
    "ti": Language("Tigrinya", "Ethi"),
    "tk": Language("Turkmen", "Latn"),
    "to": Language("Tongan", "Latn"),
    "tr": Language("Turkish", "Latn"),
    "uk": Language("Ukrainian", "Cyrl"),
    "ur": Language("Urdu", "Arab"),
    "uz": Language("Uzbek", "Latn"),
    "vi": Language("Vietnamese", "Latn"),
    "yo": Language("Yoruba", "Latn"),
    "yue": Language("Cantonese", "Hant"),
    "yue-Hans": Language("Cantonese (Simplified)", "Hans"),
    "zh": Language("Chinese", "Hans"),
    "zh-Hant": Language("Chinese (Traditional)", "Hant"),
    "zu": Language("Zulu", "Latn"),
}


# Languages that CLDR annotates less, or not at all: not in the pack, but a folder of captions may be in them.
OTHER_LANGUAGES = {
    "ak": Language("Akan", "Latn"),
    "ast": Language("Asturian", "Latn"),
    "bho": Language("Bhojpuri", "Deva"),
    "bo": Language("Tibetan", "Tibt"),
    "br": Language("Breton", "Latn"),
    "ceb": Language("Cebuano", "Latn"),
    "ckb": Language("Central Kurdish", "Arab"),
    "co": Language("Corsican", "Latn"),
    "da": Language("Danish", "Latn"),
    "doi": Language("Dogri", "Deva"),
    "dv": Language("Dhivehi", "Thaa"),
    "dz": Language("Dzongkha", "Tibt"),
    "ee": Language("Ewe", "Latn"),
    "eo": Language("Esperanto", "Latn"),
    "ff": Language("Fula", "Latn"),
    "fy": Language("Western Frisian", "Latn"),
    "gn": Language("Guarani", "Latn"),
    "haw": Language("Hawaiian", "Latn"),
    "ht": Language("Haitian Creole", "Latn"),
    "ia": Language("Interlingua", "Latn"),
    "ig": Language("Igbo", "Latn"),
    "iu": Language("Inuktitut", "Cans"),
    "ku": Language("Kurdish", "Latn"),
    "la": Language("Latin", "Latn"),
    "lb": Language("Luxembourgish", "Latn"),
    "lg": Language("Ganda", "Latn"),
    "lij": Language("Ligurian", "Latn"),
    "ln": Language("Lingala", "Latn"),
    "mai": Language("Maithili", "Deva"),
    "mg": Language("Malagasy", "Latn"),
    "mi": Language("Māori", "Latn"),
    "mni": Language("Manipuri", "Beng"),
    "mt": Language("Maltese", "Latn"),
    "nb": Language("Norwegian Bokmål", "Latn"),
    "nn": Language("Norwegian Nynorsk", "Latn"),
    "ny": Language("Nyanja", "Latn"),
    "oc": Language("Occitan", "Latn"),
    "om": Language("Oromo", "Latn"),
    "qu": Language("Quechua", "Latn"),
    "rw": Language("Kinyarwanda", "Latn"),
    "sa": Language("Sanskrit", "Deva"),
    "sat": Language("Santali", "Olck"),
    "sc": Language("Sardinian", "Latn"),
    "sm": Language("Samoan", "Latn"),
    "sn": Language("Shona", "Latn"),
    "st": Language("Southern Sotho", "Latn"),
    "su": Language("Sundanese", "Latn"),
    "tg": Language("Tajik", "Cyrl"),
    "tl": Language("Tagalog", "Latn"),
    "tn": Language("Tswana", "Latn"),
    "ts": Language("Tsonga", "Latn"),
    "tt": Language("Tatar", "Cyrl"),
    "ug": Language("Uyghur", "Arab"),
    "vec": Language("Venetian", "Latn"),
    "wo": Language("Wolof", "Latn"),
    "xh": Language("Xhosa", "Latn"),
    "yi": Language("Yiddish", "Hebr"),
}

_SUFFIX = re.compile(r"(?:-(?P<script>[A-Z][a-z]{3}))?(?:-(?P<region>[A-Z]{2}|[0-9]{3}))?")


def base_language(tag: str) -> str:
    """The language of a locale without script or region: "sr-Latn" is "sr"."""
    return tag.split("-", 1)[0]


def _language(tag: str) -> Language:
    known = LANGUAGES | OTHER_LANGUAGES
    if tag in known:
        return known[tag]
    base = base_language(tag)
    suffix = _SUFFIX.fullmatch(tag.removeprefix(base))
    if base not in known or suffix is None:
        close = get_close_matches(tag, known, n=1)
        hint = f"did you mean {close[0]!r}" if close else "expected a tag such as de, pt-BR or zh-Hant"
        raise DataError(f"unknown language {tag!r}; {hint}; `dmedge data info` lists those that the pack holds")
    details = ", ".join(part for part in (suffix["script"], suffix["region"]) if part)
    return Language(f"{known[base].name} ({details})", suffix["script"] or known[base].script)


def language_name(tag: str) -> str:
    """English name of a language tag, with script and region if it has them.

    Raises:
        DataError: the language is unknown, or the tag has another form.
    """
    return _language(tag).name


def script_of(tag: str) -> str:
    """ISO 15924 code of the script that a language tag is usually written in.

    Raises:
        DataError: the language is unknown, or the tag has another form.
    """
    return _language(tag).script


def describe(tag: str) -> Language:
    """Name and script of a language as far as they are known, else its tag and no script."""
    try:
        return _language(tag)
    except DataError:
        return Language(tag, "")


def count_languages(tags: Iterable[str]) -> str:
    """How many languages, and how many locales where one language comes in several."""
    locales = set(tags)
    languages = len({base_language(tag) for tag in locales})
    words = f"{languages} language{'' if languages == 1 else 's'}"
    return words if languages == len(locales) else f"{len(locales)} locales ({words})"


def choose_languages(asked: Sequence[str], known: Iterable[str]) -> tuple[str, ...]:
    """The known tags that are asked for; a tag stands for its scripts and regions too: "sr" also for "sr-Latn".

    Raises:
        ConfigError: a tag is not among them.
    """
    known = sorted(known)
    chosen: set[str] = set()
    for tag in asked:
        found = {name for name in known if name == tag or name.startswith(f"{tag}-")}
        if not found:
            raise ConfigError(
                f"languages: no text in {tag!r}, or it was given up{near_match(tag, known)}; "
                "name such a language, or take data that has text in it"
            )
        chosen |= found
    return tuple(sorted(chosen))
