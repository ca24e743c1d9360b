"""Mending of text from which markup was taken: characters, spaces, brackets left empty."""

import html
import re

_REMOVED = re.compile("[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u0084\u0086-\u009f"
                      "\u00ad\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\ufeff\ufffc\ufffe\uffff]")  # fmt: skip
_WIDE = "　-〿＀-￯一-鿿㐀-䶿぀-ヿ"
_SEPARATORS = r"\s,;:·•/、，；：–—\-"
# each pattern below begins with one plain character or set, which lets the engine skip ahead
_EMPTY = re.compile(
    '[（［【〔(\\[“「『《〈‘„«"]'
    rf"(?:(?<=[（［【〔])[{_SEPARATORS}]*[）］】〕]"
    rf"|(?<=[(\[])(?<![A-Za-z0-9_][(\[])[{_SEPARATORS}]*[)\]]"
    "|(?<=“) ?”|(?<=「) ?」|(?<=『) ?』|(?<=《) ?》|(?<=〈) ?〉|(?<=‘) ?’|(?<=„) ?“|(?<=«) ?»"
    r'|(?<=")(?<!\w") ?"(?![\w"]))'
)
_AFTER_OPEN = re.compile(r"([(（])[\s,;、，；]+(?=\S)")
_BEFORE_CLOSE = re.compile(r"[\s,;、，；:：][\s,;、，；:：]{0,19}(?=[)）])")
# what a dropped template leaves between commas (",,word" opens a quotation in some languages)
_REPEATED = re.compile(r"(?<=[^\s,;])[,;、，；](?:\s*[,;、，；])+")
_HAS_REPEATED = re.compile(r"[,;、，；]\s*[,;、，；]")
_BEFORE_STOP = re.compile(r"[,;、，；]\s*(?=(?:\.(?:\s|$)|[。！？]))")
_AFTER_STOP = re.compile("([。！？])[、，；]+")
_SPACE_BEFORE = re.compile(r" (?=[,.;、，。；：！？](?: |$)|[、，。；：！？)\]）］】」』》])")
_SPACE_AFTER_OPEN = re.compile(r" (?<=[(\[（［【「『《] )")
_WIDE_SPACE = re.compile(
    rf" (?:(?<=[{_WIDE}] )(?=[（「『《〈])|(?<=[、，。；：！？（）「」『』《》〈〉] )(?=[{_WIDE}]))"
)
_HAS_OPEN = re.compile(r"[(（\[［【〔“「『《〈‘„«\"]")
_LEADING_MARKS = ",;、，；。.:："
_LEADING = re.compile(r"^[\s,;、，；。.:：]+(?=\S)")
# a line without such a place needs no mending; the shape (one set of rare characters, then what
# stands before or after) lets the engine skip quickly over running text
_UNTIDY = re.compile(
    '[,.;:、，。；：！？()（）\\[\\]［］【】〔「」『』《》〈〉“‘„«"]'
    "(?:(?<= [、，。；：！？)\\]）］】」』》（「『《〈])"
    "|(?<= [,.;])(?= |$)"
    "|(?<=[。！？])(?=[、，；])"
    "|(?<=[,;:、，；：])(?= ?[,;、，；.。！？)）])"
    "|(?<=[(（\\[［【〔“「『《〈‘„«])(?=[ ,.;:、，。；：！？)\\]）］】〕」』》〉”’“»（「『《〈•·/–—-])"
    "|(?<=[、，。；：！？（）「」『』《》〈〉])(?= )"
    '|(?<=")(?= ?"))'
)
_WORD = re.compile(r"[^\W_]")
# scripts written without spaces between words
_SPACELESS = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U0003ffff]"
)
_STOPS = frozenset(".!?;:,)")
_IDEOGRAPH = re.compile("[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U0003ffff]")


def _strongest(match: re.Match[str]) -> str:
    """Of a run of commas and semicolons the one that parts most."""
    return max(match.group().replace(" ", ""), key="、,，;；".index)


def tidy_line(text: str) -> str:
    """One line of clean text: entities decoded, spaces single, empty brackets gone.

    ``f()`` after a Latin letter or digit is a function call and stays; ``( , )`` and ``（）``
    are what a dropped template leaves and go. Runs in time linear in the text.
    """
    if "&" in text:
        text = html.unescape(text)
    if not text.isprintable() or "\ufffc" in text:
        text = _REMOVED.sub("", text)
        text = " ".join(text.split())
    elif "  " in text:
        text = " ".join(text.split())
    text = text.strip()
    if text[:1] in _LEADING_MARKS or _UNTIDY.search(text):
        return _mended(text)
    return text


def _mended(text: str) -> str:
    """Without what templates leave: empty brackets, commas and spaces in a row."""
    if _HAS_OPEN.search(text):
        for _ in range(3):
            shorter = _EMPTY.sub("", text)
            if shorter == text:
                break
            text = shorter
        text = _BEFORE_CLOSE.sub("", _AFTER_OPEN.sub(r"\1", text))
        text = " ".join(_SPACE_AFTER_OPEN.sub("", text).split())
    text = _SPACE_BEFORE.sub("", text)
    if not text.isascii():
        text = _WIDE_SPACE.sub("", text)
    if _HAS_REPEATED.search(text):
        text = _REPEATED.sub(_strongest, text)
    text = _AFTER_STOP.sub(r"\1", _BEFORE_STOP.sub("", text))
    return _LEADING.sub("", text).strip()


def has_word(text: str) -> bool:
    """Whether there is a letter or digit in the text."""
    return text[:1].isalnum() or _WORD.search(text) is not None


def spaceless_letters(text: str) -> int:
    """Number of letters of scripts written without spaces (Chinese, Japanese, Thai, ...)."""
    return 0 if text.isascii() else len(_SPACELESS.findall(text))


def has_ideograph(text: str) -> bool:
    """Whether there is a Chinese character or Japanese kana in the text."""
    return _IDEOGRAPH.search(text) is not None


def gap(before: str, after: str) -> str:
    """A space where dropping what stood between would glue two words or sentences, else "".

    "breaks{{clarify}}in" and "end.<ref/>The" need one; scripts without spaces do not.
    """
    left, right = before[-1:], after[:1]
    if not (right.isalpha() or (right.isdigit() and left in _STOPS)):
        return ""
    if left in '"”’' and before[-2:-1] in _STOPS:
        left = "."
    if not (left.isalnum() or left in _STOPS) or _SPACELESS.match(left) or _SPACELESS.match(right):
        return ""
    return " "
