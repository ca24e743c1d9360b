"""What the files next to a vocabulary add to it: added tokens, names of special tokens, casing.

These are transformers' ``tokenizer_config.json``, ``special_tokens_map.json`` and
``added_tokens.json``. As there, the last two count only if the first one has no
``added_tokens_decoder``, and an added token gets the id that the ``tokenizers`` library gives it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tokenizers

from megabert.common.downloads import check_downloaded
from megabert.common.errors import UserError
from megabert.common.json_text import read_json_object
from megabert.data.tokenizers.base import CONFIG_FILE, SPECIAL_NAMES

MAP_FILE = "special_tokens_map.json"
ADDED_FILE = "added_tokens.json"
_ROLES = (*SPECIAL_NAMES, "bos", "eos")
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized")
_EXTRA = ("extra_special_tokens", "additional_special_tokens")


@dataclass(frozen=True)
class SideFiles:
    """What the files of one folder say.

    Attributes:
        folder: the folder.
        config: content of ``tokenizer_config.json``; {} without one.
        names: how the files spell special tokens, by role (``pad``, ``cls``, ..., ``bos``, ``eos``).
        extra: further special tokens.
        added: id -> added token.
    """

    folder: Path
    config: Mapping[str, Any] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)
    extra: tuple[str, ...] = ()
    added: Mapping[int, tokenizers.AddedToken] = field(default_factory=dict)


def read_side_files(folder: Path) -> SideFiles:
    """Read the files that there are.

    Raises:
        UserError: a file is damaged, or two of them give one added token different ids.
    """
    config = _object(folder / CONFIG_FILE) if (folder / CONFIG_FILE).is_file() else {}
    for name in ("do_lower_case", "strip_accents", "tokenize_chinese_chars"):
        if config.get(name) not in (True, False, None):
            raise UserError(
                f"{folder / CONFIG_FILE}: {name} is {config[name]!r:.60}, not true, false or null"
            )
    stated = dict(config)
    decoder = config.get("added_tokens_decoder")
    legacy = decoder is None
    if legacy and (folder / MAP_FILE).is_file():
        stated |= _object(folder / MAP_FILE)
    named = ((role, _content(stated.get(f"{role}_token"))) for role in _ROLES)
    names = {role: name for role, name in named if name}
    extra = tuple(dict.fromkeys(name for key in _EXTRA for name in _contents(stated.get(key))))
    special = {*names.values(), *extra}
    if legacy:
        path = folder / ADDED_FILE
        listed = _object(path) if path.is_file() else {}
        added = _by_id(path, [(number, _legacy(t, special)) for t, number in listed.items()])
    else:
        added = _by_id(folder / CONFIG_FILE, _decoded(folder / CONFIG_FILE, decoder))
    return SideFiles(folder, config, names, extra, added)


def _object(path: Path) -> dict[str, Any]:
    check_downloaded(path)
    try:
        return read_json_object(path)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error


def add_tokens(backend: tokenizers.Tokenizer, side: SideFiles) -> bool:
    """Add what the files state to a tokenizer of the library; returns whether anything was added.

    Raises:
        UserError: transformers would give a token another id than a file states, or a token has
            other flags in ``tokenizer.json``.
    """
    present: dict[str, tuple[int, Any]] = {
        t.content: (i, t) for i, t in backend.get_added_tokens_decoder().items()
    }
    before = len(present)
    roles = set(side.names.values())
    for number, token in sorted(side.added.items()):
        if token.content not in present:
            backend.add_tokens([token])
            _check_id(side, token.content, number, backend.token_to_id(token.content))
            present[token.content] = number, token
            continue
        found, other = present[token.content]
        _check_id(side, token.content, number, found)
        if token.content not in roles and _flags(token) != _flags(other):
            raise UserError(
                f"{side.folder}: the added token {token.content!r} has other flags in "
                "tokenizer.json than in tokenizer_config.json or added_tokens.json; save the "
                "tokenizer again with transformers (save_pretrained), which makes them agree"
            )
    for text in _to_add(side, backend):
        if text not in present:
            backend.add_tokens([tokenizers.AddedToken(text, special=True)])
            present[text] = -1, None
    return len(present) > before


def _to_add(side: SideFiles, backend: tokenizers.Tokenizer) -> Iterator[str]:
    """Special tokens that the files name: the five if the vocabulary lacks them, and all others.

    The names of begin and end are defaults of classes, which a vocabulary may lack.
    """
    yield from (n for r, n in side.names.items() if r in SPECIAL_NAMES and not _has(backend, n))
    yield from (n for r, n in side.names.items() if r not in SPECIAL_NAMES and _has(backend, n))
    yield from side.extra


def _has(backend: tokenizers.Tokenizer, token: str) -> bool:
    return backend.token_to_id(token) is not None


def _check_id(side: SideFiles, text: str, stated: int, found: int | None) -> None:
    if stated != found:
        raise UserError(
            f"{side.folder}: the added token {text!r} has id {stated} in one file, but its place "
            f"after the vocabulary gives {found}, and so does transformers; correct the file, or "
            "save the tokenizer again with transformers"
        )


def _flags(token: tokenizers.AddedToken) -> tuple[bool, ...]:
    """What decides where a token is found in text; for special tokens, which no text has, only that."""
    if token.special:
        return (True,)
    return (False, *(bool(getattr(token, name)) for name in _FLAGS))


def _legacy(text: str, special: set[str]) -> tokenizers.AddedToken:
    """An entry of ``added_tokens.json``, with the flags that transformers gives it."""
    return tokenizers.AddedToken(text, normalized=text not in special, special=text in special)


def _decoded(path: Path, decoder: Any) -> list[tuple[Any, tokenizers.AddedToken]]:
    if not isinstance(decoder, dict):
        raise UserError(f"{path}: added_tokens_decoder is not a table of ids")
    found = []
    for number, entry in decoder.items():
        content = _content(entry)
        if not content or not isinstance(entry, Mapping):
            raise UserError(f"{path}: the added token {number} has no content")
        flags = {name: bool(entry.get(name, False)) for name in ("special", *_FLAGS[:3])}
        normalized = bool(entry.get("normalized", not flags["special"]))
        found.append((number, tokenizers.AddedToken(content, normalized=normalized, **flags)))
    return found


def _by_id(
    path: Path, tokens: Sequence[tuple[Any, tokenizers.AddedToken]]
) -> dict[int, tokenizers.AddedToken]:
    """The tokens by id as a number.

    Raises:
        UserError: an id is not a number of 0 or more, or two tokens have the same one.
    """
    found: dict[int, tokenizers.AddedToken] = {}
    for number, token in tokens:
        if isinstance(number, bool) or not str(number).isdecimal():
            raise UserError(f"{path}: the added token {token.content!r} has {number!r} as its id")
        other = found.setdefault(int(number), token)
        if other is not token:
            raise UserError(
                f"{path}: the added tokens {other.content!r} and {token.content!r} have the same id, "
                f"{number}"
            )
    return found


def _content(value: Any) -> str:
    """Spelling of a token that is given as text or as an object; empty for anything else."""
    text = value.get("content") if isinstance(value, Mapping) else value
    return text if isinstance(text, str) else ""


def _contents(value: Any) -> Iterator[str]:
    tokens = value.values() if isinstance(value, Mapping) else value
    if isinstance(value, (list, Mapping)):
        yield from filter(None, map(_content, tokens))
