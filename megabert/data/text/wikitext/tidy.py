"""Tidies text after markup was removed: characters, spaces, empty brackets."""

import html
import re

_REMOVED = re.compile("[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u0084\u0086-\u009f"
                      "\u00ad\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\ufeff\ufffc\ufffe\uffff]")  # fmt: skip
_WIDE = "　-〿＀-￯一-鿿㐀-䶿぀-ヿ"
_SEPARATORS = r"\s,;:·•/、，；：–—\-"
# each pattern below begins with a plain character or set, so that the engine can skip ahead
_EMPTY = re.compile(
    '[（［【〔(\\[“「『《〈‘„«"]'
    rf"(?:(?<=[（［【〔])[{_SEPARATORS}]*[）］】〕]"
    rf"|(?<=[(\[])(?<![A-Za-z0-9_][(\[])[{_SEPARATORS}]*[)\]]"
    "|(?<=“) ?”|(?<=「) ?」|(?<=『) ?』|(?<=《) ?》|(?<=〈) ?〉|(?<=‘) ?’|(?<=„) ?“|(?<=«) ?»"
    r'|(?<=")(?<!\w") ?"(?![\w"]))'
)
_AFTER_OPEN = re.compile(r"([(（])[\s,;、，；]+(?=\S)")
_BEFORE_CLOSE = re.compile(r"[\s,;、，；:：][\s,;、，；:：]{0,19}(?=[)）])")
# what a dropped template leaves between commas (",,word" begins a quotation in some languages)
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
# a line without a match is tidy; the pattern (a set of rare characters, then what precedes or
# follows) lets the engine skip quickly over running text
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
    """The one of a run of commas and semicolons that separates most strongly."""
    return max(match.group().replace(" ", ""), key="、,，;；".index)


def tidy_line(text: str) -> str:
    """One line of clean text: entities decoded, single spaces, no empty brackets.

    ``f()`` after a Latin letter or digit is a function call and remains; ``( , )`` and ``（）`` are
    left by dropped templates and are removed. The time is linear in the text.
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
        return _tidied(text)
    return text


def _tidied(text: str) -> str:
    """Remove what templates leave: empty brackets, repeated commas and spaces."""
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
    """Whether the text has a letter or digit."""
    return text[:1].isalnum() or _WORD.search(text) is not None


def spaceless_letters(text: str) -> int:
    """Number of letters of scripts written without spaces (Chinese, Japanese, Thai, ...)."""
    return 0 if text.isascii() else len(_SPACELESS.findall(text))


def has_ideograph(text: str) -> bool:
    """Whether the text has a Chinese character or Japanese kana."""
    return _IDEOGRAPH.search(text) is not None


def gap(before: str, after: str) -> str:
    """A space if removing the markup in between would join two words or sentences, else "".

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
