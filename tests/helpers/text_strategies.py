"""Text that tokenizers stumble over: a Hypothesis strategy, and many strings from a seed."""

from __future__ import annotations

import random
import unicodedata

from hypothesis import strategies as st

SPACES = "\t \n\r\v\f\x1c\x1d\x1e\x1f\x85\u00a0\u1680\u2003\u2028\u2029\u202f\u3000"
CONTROLS = "\0\x01\x07\x08\x1b\x7f\x9f\u00ad\u200b\u200c\u200d\u200e\u2060\ufeff\ufffd\ufffc"
MARKS = "\u0300\u0301\u0307\u0308\u0323\u0327\u0338\u0345\u0591\u05b0\u064b\u0903\u093c\u093f\u0e31\u20dd\u302a\u3099\ufe0f"
CASES = "İıßẞΣςσÅÅſKΩµŉǰΐﬀﬁǅᾳẛ"  # their small forms differ by context, length or library
SIGNS = "!?#$+<=>@[]^_`{|}~.,;:'\"-–—…‘’“”«»¿·・、。「」（）％‰€№½²①㍿㌔⁄\u037e\u1fef\u2010᠆"
CJK = "一丁北京大學学漢字々〇龥\u9fd5\u9fd6\u9fff㐀䶵\uf900\ufa0e\ufaff\U00020000\U0002a6d6\U0002f800かなカナ゙ﾊﾟ한국각"
ABROAD = "שָׁלוֹםسَلَامठेकนี้བོགаёєїﬓაԱ"
ODD = "\ue000\uf8ff\U000f0000\u0378\u0530\u2fe0\U000e0080\ufdd0\uffff\U0001f3fb\U0001d400\U00010400"
WHOLE = (
    "👨\u200d👩\u200d👧", "🇫🇷🇨🇳", "👍🏽", "❤\ufe0f", "🏴\U000e0067\U000e007f", "[MASK]", "[UNK]", "<mask>",
    "##ing", "▁", "▁the", "café", "e\u0301", "½\u0301", "a\u0323\u0302", "ΟΔΟΣ", "don't", "U.S.",
    "3.14", "https://x.org/?a=1", "２０２０年", "北京大学", "中華人民共和國", "the", "quick", "Running",
    "unaffable", "\r\n", "x" * 99, "x" * 100, "x" * 101, "é" * 100, "e\u0301" * 60, "北" * 120, "-" * 70,
)  # fmt: skip

_PIECES = st.one_of(
    st.characters(exclude_categories=("Cs",)),
    st.sampled_from(SPACES),
    st.sampled_from(CONTROLS + MARKS + CASES + SIGNS + CJK + ABROAD + ODD),
    st.sampled_from(WHOLE),
    st.sampled_from("abcdefgABCDEFG0123 "),
    st.text("etaoinshrdlu", min_size=1, max_size=9),
    st.sampled_from(("NFC", "NFD", "NFKD")).flatmap(
        lambda form: st.sampled_from(CASES + CJK + "éñüởṩ").map(
            lambda character: unicodedata.normalize(form, character)
        )
    ),
)
TEXT = st.lists(_PIECES, max_size=14).map("".join)
"""A string of up to 14 pieces; no lone surrogate."""


def random_texts(count: int, seed: int) -> list[str]:
    """``count`` different strings of such pieces, the same for the same seed."""
    draw = random.Random(seed)
    single = SPACES + CONTROLS + MARKS + CASES + SIGNS + CJK + ABROAD + ODD + "abcXYZ019 "
    sources = (
        lambda: _any_character(draw),
        lambda: draw.choice(single),
        lambda: draw.choice(WHOLE),
        lambda: draw.choice("aeb") + "".join(draw.choices(MARKS, k=draw.randint(1, 3))),
        lambda: "".join(draw.choices("etaoinshrdluETAOIN", k=draw.randint(1, 12))),
        lambda: unicodedata.normalize(draw.choice(("NFC", "NFD", "NFKD")), draw.choice(single)),
        lambda: " ",
    )
    found: dict[str, None] = {}
    while len(found) < count:
        pieces = [draw.choice(sources)() for _ in range(draw.randint(1, 16))]
        found["".join(pieces)] = None
    return list(found)


def _any_character(draw: random.Random) -> str:
    code = draw.choice((draw.randrange(0x3000), draw.randrange(0x10000), draw.randrange(0x110000)))
    return "\ufffd" if 0xD800 <= code < 0xE000 else chr(code)
