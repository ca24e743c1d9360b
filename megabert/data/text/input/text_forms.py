"""Text with a form of its own that is not read: it is named by its first lines, with what to do."""

from __future__ import annotations

import re

_LINES = 200
_FEWEST = 3
_CONLLU = re.compile(r"\d+(?:[-.]\d+)?(?:\t[^\t]*){9}$")
_CONLLU_TEXT = re.compile(r"#\s*text = ")
_MESSAGE = re.compile(r'msg(?:id|str|ctxt|id_plural)(?:\[\d\])? "')
_YAML_ITEM = re.compile(r"\s*- [\w-]{1,40}:(?:\s|$)")
_YAML_KEY = re.compile(r"\s+[\w-]{1,40}:(?:\s|$)")
_YAML_BLOCK = re.compile(r"\s*(?:- )?[\w-]{1,40}: [|>][-+]?\s*$")
_MBOX = re.compile(r"From \S+ .*\d\d:\d\d")
_HEADER = re.compile(
    r"(?:From|To|Subject|Date|Message-I[Dd]|Received|Return-Path|Newsgroups|Path|Organization|Lines"
    r"|Content-Type|MIME-Version|X-[\w-]+|Cc|Reply-To|References|In-Reply-To|Sender|Xref): ?\S"
)
_FOLDED = re.compile(r"[ \t]+\S")


def text_form(text: str) -> str | None:
    """What a text is and what to do, if it is in a form that is not read; else None.

    Args:
        text: the beginning of a file, whole lines.
    """
    lines = [line.rstrip("\r") for line in text.split("\n", _LINES)[:_LINES]]
    filled = [line for line in lines if line.strip()]
    if sum(map(bool, map(_CONLLU.match, filled))) >= max(_FEWEST, len(filled) // 2):
        if any(map(_CONLLU_TEXT.match, filled)):
            return (
                "CoNLL-U, one word per line; its sentences are in the '# text = ' lines: "
                "sed -n 's/^# text = //p' OLD > NEW"
            )
        return "CoNLL-U, one word per line; join the words of each sentence to a line first"
    if 3 * sum(map(bool, map(_MESSAGE.match, filled))) >= max(2 * _FEWEST, len(filled)):
        return "a catalogue of gettext (.po); extract its text first, for example with po2txt"
    if _is_mail(lines):
        return (
            "mail or news with its headers; extract the text of the messages first, for example "
            "with Python's mailbox and email modules"
        )
    if _is_yaml(filled):
        return "YAML; write its text as JSON Lines first, for example with yq -o json -I 0 '.[]'"
    return None


def _is_mail(lines: list[str]) -> bool:
    """Whether a text begins with the headers of mail."""
    if lines and _MBOX.match(lines[0]):
        return any(map(_HEADER.match, lines[1:4]))
    count = 0
    for line in lines:
        if _HEADER.match(line):
            count += 1
        elif not count or not _FOLDED.match(line):
            return count >= _FEWEST and not line.strip()
    return False


def _is_yaml(lines: list[str]) -> bool:
    items = sum(map(bool, map(_YAML_ITEM.match, lines)))
    keys = sum(map(bool, map(_YAML_KEY.match, lines)))
    blocks = sum(map(bool, map(_YAML_BLOCK.match, lines)))
    if items >= _FEWEST and keys >= _FEWEST:
        return 5 * (items + keys) >= len(lines)
    return blocks >= _FEWEST and 10 * blocks >= len(lines)
