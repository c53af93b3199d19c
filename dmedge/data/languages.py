"""The 100 locales of the pack, which are 96 languages: four languages come in two scripts."""

from __future__ import annotations

from typing import NamedTuple

from dmedge.errors import DataError


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


def base_language(tag: str) -> str:
    """The language of a locale without script or region: "sr-Latn" is "sr"."""
    return tag.split("-", 1)[0]


def _language(tag: str) -> Language:
    if tag not in LANGUAGES:
        raise DataError(f"unknown language {tag!r}; expected a CLDR locale such as de, sr-Latn or zh-Hant; {_HELP}")
    return LANGUAGES[tag]


_HELP = "`dmedge data info` lists them all"


def language_name(tag: str) -> str:
    """English name of a locale of the pack.

    Raises:
        DataError: the tag is not a locale of the pack.
    """
    return _language(tag).name


def script_of(tag: str) -> str:
    """ISO 15924 code of the script of a locale of the pack.

    Raises:
        DataError: the tag is not a locale of the pack.
    """
    return _language(tag).script
