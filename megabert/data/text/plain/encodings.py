"""Which encoding text that is not UTF-8 is probably in, for error messages."""

import re

from megabert.common.patterns import lazy_pattern

_SAMPLE = 1 << 16  # bytes
_LEAST = 0.35  # of the score that running text has
_UTF16_NULS = 0.3

# Python's name, iconv's name, frequent characters outside ASCII, and their share of such characters
# in running text; of encodings that fit equally well, the first one is named
_LATIN = (
    ("iso8859_1", "ISO-8859-1", "éèàêçëîïôùûâäöüßÄÖÜñóíáúòìõãåæøÉÅØ«»°§·¿¡", 0.95),
    ("cp1252", "WINDOWS-1252", "éèàêçëîïôùûâäöüßÄÖÜñóíáúòìõãåæøÉÅØ«»°§·¿¡–—‘’“”„…•œ€™", 0.95),
    ("iso8859_2", "ISO-8859-2", "ąćęłńóśźżřšžěůýíáéčďťňőűöüŘŠŽČŁŚ", 0.95),
    ("cp1250", "WINDOWS-1250", "ąćęłńóśźżřšžěůýíáéčďťňőűöüŘŠŽČŁŚ–—’“”„", 0.95),
    ("cp1254", "WINDOWS-1254", "ğıışİŞçÇöüÖÜâ–—’“”", 0.95),
    ("cp1257", "WINDOWS-1257", "āčēģīķļņšūžąęėįųõäöü–—’“”„", 0.95),
    ("mac_roman", "MACINTOSH", "éèàêçëîïôùûâäöüßÄÖÜñóíáúòìãåæøÉÅØ«»°–—‘’“”„…•", 0.95),
    ("cp850", "CP850", "éèàêçëîïôùûâäöüßÄÖÜñóíáúòìãåæøÉÅØ«»", 0.95),
)
_OTHER_SCRIPTS = (
    ("gb18030", "GB18030", "的一是在不了有和人这中大为上个国我以要他时来用们，。、", 0.25),
    ("big5", "BIG5", "的一是在不了有和人這中大為上個國我以要他時來用們，。、", 0.25),
    ("shift_jis", "SHIFT_JIS", "のにはをたがでてとしれさいるなもあこすんくら、。ンストルー", 0.6),
    ("euc_jp", "EUC-JP", "のにはをたがでてとしれさいるなもあこすんくら、。ンストルー", 0.6),
    ("euc_kr", "EUC-KR", "이다는에을의가은를고하지로한기사어대나도자해인리", 0.4),
    ("cp1251", "WINDOWS-1251", "оеаинтсрвлкмдпуяыьгзбчйх", 0.9),
    ("cp866", "CP866", "оеаинтсрвлкмдпуяыьгзбчйх", 0.9),
    ("iso8859_5", "ISO-8859-5", "оеаинтсрвлкмдпуяыьгзбчйх", 0.9),
    ("koi8_r", "KOI8-R", "оеаинтсрвлкмдпуяыьгзбчйх", 0.9),
    ("cp1253", "WINDOWS-1253", "αοιετσνηυρπκμλςάέίόή", 0.85),
    ("cp1255", "WINDOWS-1255", "יוהלאתרבשמנדםכקחפע", 0.9),
    ("cp874", "CP874", "านรอกเงมยลวดทสตะปบคหแจพชขใไโ่้ัีิ็ืู์", 0.9),
    ("cp1256", "WINDOWS-1256", "اليمنوترهبدعسفكحق", 0.8),
)
_MARKS = (
    (b"\xff\xfe\x00\x00", "UTF-32"),
    (b"\x00\x00\xfe\xff", "UTF-32"),
    (b"\xff\xfe", "UTF-16"),
    (b"\xfe\xff", "UTF-16"),
)
_SHIFTED = re.compile(rb"\x1b\$[@B][!-~]{2,}\x1b\([BJ]")
_TWICE = re.compile("[\u00c2-\u00f4][^\\x00-\\x7f]+")
_FEWEST_TWICE = 4
_UTF16_TEXT = lazy_pattern("[\t-~\u3000-\u30ff\u4e00-\u9fff\uac00-\ud7a3\uff00-\uff60]")
_OTHERS = re.compile(r"[^\x00-\x7f]+")


def is_certain(encoding: str) -> bool:
    """Whether an encoding of :func:`likely_encoding` is seen from its bytes, not guessed from its
    letters."""
    return encoding.startswith(("UTF-", "ISO-2022"))


def likely_encoding(data: bytes) -> str | None:
    """iconv's name of the encoding that the text is probably in; "UTF-8" if most of it is that.

    Args:
        data: bytes that are not valid UTF-8, or that hold NUL bytes; the first 64 KiB count.
    """
    data = data[:_SAMPLE]
    for mark, name in _MARKS:
        if data.startswith(mark):
            return name
    if b"\0" in data:
        return _utf16(data)
    if _SHIFTED.search(data):
        return "ISO-2022-JP"
    replaced = data.decode("utf-8", errors="replace")
    others = sum(map(len, _OTHERS.findall(replaced)))
    if replaced.count("\ufffd") * 3 < others:
        return "UTF-8"
    scores = {
        name: _score(data, codec, set(often), candidates is _LATIN) / share
        for candidates in (_LATIN, _OTHER_SCRIPTS)
        for codec, name, often, share in candidates
    }
    best = max(scores, key=lambda name: scores[name])
    return best if scores[best] >= _LEAST else None


def is_encoded_twice(text: str) -> bool:
    """Whether text was UTF-8, was read as Windows-1252, and was written as UTF-8 again ("cafÃ©")."""
    found = [count for word in _TWICE.findall(text) if (count := _once(word))]
    return sum(found) >= _FEWEST_TWICE and 2 * len(found) > len(_OTHERS.findall(text))


def _once(word: str) -> int:
    """How many characters a word is if it was encoded twice; else 0."""
    for codec in ("cp1252", "latin-1"):
        try:
            return len(word.encode(codec).decode("utf-8"))
        except UnicodeError:
            continue
    return 0


def _utf16(data: bytes) -> str | None:
    """The byte order of UTF-16 text whose ASCII characters have a NUL on one side."""
    half = len(data) / 2
    even, odd = data[::2].count(0) / half, data[1::2].count(0) / half
    for name, codec, nuls, others in (
        ("UTF-16LE", "utf-16-le", odd, even),
        ("UTF-16BE", "utf-16-be", even, odd),
    ):
        try:
            text = data[: len(data) // 2 * 2].decode(codec)
        except UnicodeDecodeError:
            continue
        known = len(_UTF16_TEXT.findall(text)) > 0.95 * len(text)
        if (nuls > _UTF16_NULS and others < 0.05) or (len(text) > 8 and known):
            return name
    return None


def _score(data: bytes, codec: str, often: set[str], latin: bool) -> float:
    """Share of frequent characters among those outside ASCII; 0 if the data is not this encoding.

    Letters outside ASCII are single ones in Latin script, and whole words in other scripts.
    """
    try:
        text = data.decode(codec)
    except UnicodeDecodeError as error:
        if error.start < len(data) - 4:
            return 0.0
        text = data[: error.start].decode(codec)
    words = _OTHERS.findall(text)
    count = sum(map(len, words))
    if not words or (count >= 2 * len(words)) == latin:
        return 0.0
    return sum(character in often for word in words for character in word) / count
