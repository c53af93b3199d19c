"""Text that trips tokenizers, drawn from few letters of one kind."""

import random

NASTY = {
    "spaces": "aB\t\n\r \u00a0\u1680\u2003\u2028\u200b\u2581\u3000\ufeff",
    "marks": "aeiouAEIOUsSkK\u0300\u0301\u0302\u0307\u0308\u030c\u0323\u0327\u0328\u0345\u1e69\u1ec7",
    "right to left": "אבגשׁ\u05b0\u05b4\u05bcابتلا\u064b\u064e\u0651\u0670\u200e\u200f\ufdfa\ufefb",
    "half-width": "ａＢｶﾞﾊﾟ～！ｱ\u3099\u309aガパ㌔㍿Ⅷ①ﬁ",
    "hangul": "\u1100\u1161\u11a8가각\u3131ﾡ\uffc2",
    "indic": "\u0915\u094d\u0937\u093f\u09c7\u09be\u0b47\u0b3e\u0bc6\u0bbe\u0e33\u0e48\u0eb3\u0f71\u0f72\u1025\u102e",
    "emoji": "😀👩👧👍🏽🏳️🌈🇩🇪0️⃣\u200d\ufe0f\U000e0067\U000e007f",
    "controls": "a\x00\x01\x1f\x7f\x80\x85\x9f\u00ad\u034f\u061c\u2060\ufffd\uffff\U0010ffff",
    "case": "ßẞſςΣİıǅŉΐϴᾳᾼԵւևᲐꭰᏸКк",
    "ties": "000𠀀1𐐀",  # several splits whose sums differ in the last bit of a float
    "astral": "𐐀𐐨𝐀𝟘𠀀\U0001d15e\U0001d1bb\U0001d15f𞤀",
}


def nasty_texts(kind: str, count: int) -> list[str]:
    """Strings of up to twelve letters of one kind, or of "all"."""
    letters = list("".join(NASTY.values()) if kind == "all" else NASTY[kind])
    draws = random.Random(0)
    return ["".join(draws.choices(letters, k=draws.randint(0, 12))) for _ in range(count)]
