"""Files of tasks, and patterns of a tokenizer, that would take memory or time without end."""

from __future__ import annotations

import base64
import gzip
import json
import struct
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from tokenizers import models, pre_tokenizers

from megabert.common.errors import UserError
from megabert.data.tokenizers.json_file import load_json
from megabert.data.tokenizers.split_patterns import LONGEST_PIECE, has_nested_repeats, pieces
from megabert.tasks.files import text_lines
from megabert.tasks.files.json_lines import read_json_lines
from megabert.tasks.files.quoted_cells import quoted_rows
from megabert.tasks.files.tables import read_table
from megabert.tasks.squad import reading
from tests.helpers.growth import too_fast_growth

_MIB = b"0" * (1 << 20)
_SPECIAL = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"]


def _packed(path: Path, pieces: Iterable[bytes]) -> Path:
    with gzip.open(path, "wb", 1) as file:
        for piece in pieces:
            file.write(piece)
    return path


def _read_all(path: Path) -> None:
    for _ in read_json_lines(path):
        pass


def _table(path: Path) -> None:
    read_table(path, lambda cells: cells[:1] == ["sentence"])


@pytest.mark.parametrize("read", [_read_all, _table, reading.read_squad])
def test_a_line_without_end_is_one_line(tmp_path: Path, read: Callable[[Path], object]) -> None:
    path = _packed(tmp_path / "a.json.gz", [b'{"data": "', *[_MIB] * 300])
    with pytest.raises(UserError, match="line 1 is longer than 64 MiB") as caught:
        read(path)
    assert "\n" not in str(caught.value)


def test_what_a_packed_file_holds_has_a_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = _packed(tmp_path / "a.tsv.gz", [b"\n" * 20_000])
    monkeypatch.setattr(text_lines, "MAX_LINES", 10_000)
    with pytest.raises(UserError, match="unpacks to more than 1 GiB or"):
        _table(path)
    plain = tmp_path / "a.tsv"
    plain.write_bytes(b"a\tb\n" * 20_000)
    _table(plain)


def test_a_large_squad_document_is_one_line_and_lines_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "MAX_DOCUMENT", 1000)
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"data": [{"paragraphs": []}] * 1000}, indent=1))
    with pytest.raises(UserError, match="one JSON document of more than"):
        reading.read_squad(path)
    record = {"context": "A b.", "question": "A?", "answers": {"text": ["b"], "answer_start": [2]}}
    lines = (json.dumps({"id": str(number), **record}) for number in range(100))
    path.write_text("\n".join(lines))
    assert len(reading.read_squad(path).questions) == 100


def test_time_of_a_cell_over_many_lines_grows_with_it() -> None:
    def work(size: int) -> Callable[[], object]:
        lines = [(1, '"a'), *((number, "word") for number in range(2, size // 5))]
        return lambda: list(quoted_rows(lines, ","))

    assert too_fast_growth(work, 1 << 20) == ""


@pytest.mark.parametrize(
    "pattern",
    [
        "(a+)+",
        "(?:a*b?)*c",
        "((a)+)+",
        "(?<n>x+y?){2,}",
        r"([\p{L}]+\s?)*+|(\d+)+",
        "(?:a|(?:b+))+?",
    ],
)
def test_repeated_repetitions_are_found(pattern: str) -> None:
    assert has_nested_repeats(pattern)


@pytest.mark.parametrize(
    "pattern",
    [
        # of published tokenizers
        r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+",
        r" ?[^(\s|[.,!?…。，、।۔،])]+",
        r"\d{1,3}(?=(?:\d{3})*\b)",
        r"[一-龥぀-ゟ゠-ヿ]+",
        r"(?>a+)+",
        r"(?:a++)+",
        r"\(a+\)+",
        r"[(a+)+]",
        r"a{2}{3}",
        r"(?:ab?)+",
        r"x(?<!a+)y",
    ],
)
def test_other_patterns_are_used(pattern: str) -> None:
    assert not has_nested_repeats(pattern)


def _tokenizer(path: Path, pattern: str) -> Path:
    words = {word: place for place, word in enumerate([*_SPECIAL, *"ab1 "])}
    made = tokenizers.Tokenizer(models.BPE(vocab=words, merges=[], unk_token="[UNK]"))
    made.add_special_tokens(_SPECIAL)
    made.pre_tokenizer = pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated")
    made.save(str(path))
    return path


def test_a_pattern_that_repeats_a_repetition_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="repeats a repetition") as caught:
        load_json(_tokenizer(tmp_path / "tokenizer.json", "(a+)+b"))
    assert "tokenizer.json" in str(caught.value)


def _standard_error(path: Path, text: str) -> str:
    """What a process writes there that loads a tokenizer and encodes a text."""
    code = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from megabert.common.errors import UserError\n"
        "from megabert.data.tokenizers.json_file import load_json\n"
        "try:\n"
        "    load_json(Path(sys.argv[1])).encode_sentences([sys.argv[2]])\n"
        "except UserError as error:\n"
        "    os.write(2, f'error: {error}\\n'.encode())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path), text], capture_output=True, text=True, check=True
    )
    return done.stderr


@pytest.mark.parametrize("damage", ["a pattern", "a normalizer"])
def test_a_tokenizer_that_panics_is_refused_in_one_line(tmp_path: Path, damage: str) -> None:
    """Without the lines of the library about its panic."""
    path = _tokenizer(tmp_path / "tokenizer.json", "(?:a|aa){2,}1")
    if damage == "a normalizer":
        body = json.loads(path.read_text(encoding="utf-8"))
        charsmap = base64.b64encode(struct.pack("<I", 4) + bytes(4)).decode()
        body["normalizer"] = {"type": "Precompiled", "precompiled_charsmap": charsmap}
        path.write_text(json.dumps(body), encoding="utf-8")
    said = _standard_error(path, "a")
    assert said.startswith(f"error: {path}: not a tokenizer.json that can be used: ")
    assert said.count("\n") == 1


def test_a_panic_that_no_try_shows_ends_in_our_line(tmp_path: Path) -> None:
    path = _tokenizer(tmp_path / "tokenizer.json", "(?:ab|abab){2,}1")
    last = _standard_error(path, "ab" * 200).splitlines()[-1]
    assert last.startswith(
        f"error: {path}: the tokenizers library fails with this tokenizer.json on "
    )
    assert "retry-limit-in-match" in last


def test_a_long_text_is_encoded_in_pieces_with_the_same_result(tmp_path: Path) -> None:
    tokenizer = load_json(_tokenizer(tmp_path / "tokenizer.json", " ?[ab]+"))
    text = "ab a b abab" * 2000
    [whole] = tokenizer.encode_sentences([text])
    assert "".join(pieces(text)) == text
    assert max(map(len, pieces(text))) <= LONGEST_PIECE
    assert whole.offsets.tolist() == [[n, n + 1] for n in range(len(text))]
    places = np.flatnonzero(whole.word_starts)
    expected = [0, *(n for n, character in enumerate(text) if character == " ")]
    assert places.tolist() == expected


def test_time_of_a_quadratic_pattern_grows_with_the_text(tmp_path: Path) -> None:
    tokenizer = load_json(_tokenizer(tmp_path / "tokenizer.json", "a+b"))
    assert (
        too_fast_growth(lambda size: lambda: tokenizer.encode_sentences(["a" * size]), 1 << 15)
        == ""
    )
