"""Text files that would take memory or time without end, and articles that would end a job.

The files are a few kilobytes, and unpack to much more than any reader may hold.
"""

from __future__ import annotations

import bz2
import gzip
import subprocess
import sys
import tarfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from megabert.common.errors import UserError
from megabert.data.text.document import page_to_sentences
from megabert.data.text.extracted import read_docs
from megabert.data.text.input.segments import MAX_BLOCKS, FileForm, block_segments
from megabert.data.text.input.sources import iter_pages
from megabert.data.text.pages import Page
from megabert.data.text.plain.records import Numbering
from megabert.data.text.wikitext.tidy import unescape

_HEAD = b'<mediawiki xml:lang="en">'
_BEGIN = b"<page><title>A</title><ns>0</ns><id>1</id><revision><text>"
_END = b"</text></revision></page>"
_LAST = b"</mediawiki>"
_MIB = b"0" * (1 << 20)
_AFTER = _BEGIN.replace(b"<id>1", b"<id>2") + b"The page after it is read." + _END + _LAST


def _packed(path: Path, pieces: Iterable[bytes]) -> Path:
    with gzip.open(path, "wb", 1) as file:
        for piece in pieces:
            file.write(piece)
    return path


def _header(name: str, size: int, kind: bytes = b"0") -> bytes:
    header = tarfile.TarInfo(name)
    header.size, header.type = size, kind
    return header.tobuf(tarfile.GNU_FORMAT)


_FILES: dict[str, tuple[list[bytes], str]] = {
    "nested elements": ([_HEAD, b"<a>" * 40_000], "the element <a> inside <a>"),
    "an element in a text": ([_HEAD, _BEGIN, b"one <b>two</b> three", _END, _LAST], "<b> inside <text>"),
    "a tag": ([_HEAD, b"<page", *[_MIB] * 16], "a tag, comment or entity of more than 1,048,576 bytes"),
    "an attribute": ([_HEAD, b"<page a='", *[_MIB] * 16, b"'/>"], "a tag, comment or entity of more"),
    "a comment": ([b"<?xml version='1.0'?><!--", *[_MIB] * 16, b"-->"], "a tag, comment or entity of more"),
    "an entity": ([_HEAD, _BEGIN, b"&a", *[_MIB] * 16], "a tag, comment or entity of more"),
    "a title": ([_HEAD, b"<page><title>", *[_MIB] * 16], "a <title> of more than 65,536 characters"),
    "namespaces": (
        [_HEAD, b"<siteinfo><namespaces>", b"<namespace key='1'>a</namespace>" * 20_000],
        "lists more than 10,000 namespaces",
    ),
    "a name in a tar": (
        [_header("././@LongLink", 1 << 30, b"L"), *[_MIB] * 16],
        "a header of 1,073,741,824 bytes",
    ),
    "attributes in a tar": ([_header("x", 1 << 30, b"x"), *[_MIB] * 16], "a header of 1,073,741,824"),
    "names of names in a tar": (
        [(_header("././@LongLink", 5, b"L") + b"abcde".ljust(512, b"\0")) * 3000],
        "the tar archive is damaged",
    ),
    "a size in a tar": ([_header("a.txt", 1 << 50), *[_MIB] * 4], "it ends inside a file"),
}  # fmt: skip


def _read(path: Path) -> None:
    for page in iter_pages(path):
        page_to_sentences(page, "en")


@pytest.mark.parametrize("case", _FILES)
def test_a_file_without_end_is_one_line(tmp_path: Path, case: str) -> None:
    pieces, message = _FILES[case]
    path = _packed(tmp_path / "dump.gz", pieces)
    with pytest.raises(UserError) as caught:
        _read(path)
    assert message in str(caught.value)
    assert len(str(caught.value)) < 500
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", ["gz", "bz2"])
def test_a_page_of_zeros_is_dropped_in_bounded_memory(tmp_path: Path, suffix: str) -> None:
    """64 MiB of text in a process that may have 200 MiB more than it begins with."""
    path = tmp_path / f"dump.{suffix}"
    data = b"".join((_HEAD, _BEGIN, _MIB * 64, _END, _AFTER))
    path.write_bytes(gzip.compress(data, 1) if suffix == "gz" else bz2.compress(data))
    assert path.stat().st_size < 1 << 20
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from megabert.data.text.document import page_to_sentences\n"
        "from megabert.data.text.input.sources import iter_pages\n"
        "def peak():\n"
        "    lines = open('/proc/self/status').read().splitlines()\n"
        "    return next(int(line.split()[1]) for line in lines if line.startswith('VmHWM'))\n"
        "before = peak()\n"
        "for page in iter_pages(Path(sys.argv[1])):\n"
        "    print(page_to_sentences(page, 'en').drop_reason)\n"
        "print((peak() - before) // 1024)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True
    )
    first, second, memory = done.stdout.splitlines()
    assert (first, second) == ("too long", "None")
    assert int(memory) < 200


_WORD = "word " * 10_000_000


@pytest.mark.parametrize(
    ("case", "outcome"),
    [
        ("a dictionary", "2 pages"),
        ("pages", "2 pages"),
        pytest.param("a page", "cannot be read after row 0 of it", marks=pytest.mark.slow),
    ],
)
def test_parquet_in_bounded_memory(tmp_path: Path, case: str, outcome: str) -> None:
    """64 rows of 50 MB, or one of 1.6 GB, in a file of some kilobytes."""
    path = tmp_path / "a.parquet"
    texts: pa.Array | pa.ChunkedArray
    if case == "a dictionary":
        texts = pa.DictionaryArray.from_arrays(pa.array([0] * 64, pa.int32()), pa.array([_WORD]))
    elif case == "pages":
        texts = pa.chunked_array([pa.array([_WORD])] * 64)
    else:
        texts = pa.array([_WORD * 32], pa.large_string())
    pq.write_table(
        pa.table({"text": texts}),
        path,
        compression="zstd",
        use_dictionary=case == "a dictionary",
        store_schema=False,
        write_statistics=False,
    )
    del texts
    assert path.stat().st_size < 1 << 19
    code = (
        "import os, sys\n"
        "from itertools import islice\n"
        "from pathlib import Path\n"
        "from megabert.common.errors import UserError\n"
        "from megabert.data.text.input.sources import iter_pages\n"
        "def peak(pid):\n"
        "    lines = open(f'/proc/{pid}/status').read().splitlines()\n"
        "    return next(int(line.split()[1]) for line in lines if line.startswith('VmHWM'))\n"
        "try:\n"
        "    pages = list(islice(iter_pages(Path(sys.argv[1])), 2))\n"
        "    print(len(pages), 'pages of', {len(page.text) for page in pages})\n"
        "except UserError as error:\n"
        "    print(error)\n"
        "children = open(f'/proc/self/task/{os.getpid()}/children').read().split()\n"
        "print(sum(map(peak, ['self', *children])) // 1024)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True
    )
    line, memory = done.stdout.splitlines()
    assert outcome in line
    assert int(memory) < 2048


def test_segments_have_a_limited_number_of_blocks() -> None:
    starts = np.arange(100) * 400
    blocks = np.stack([starts, starts + 400, np.full(100, 9)], 1)
    form = FileForm(Path("a.bz2"), 5000, "blocks")
    segments = block_segments(form, Path("a.npy"), blocks, 1 << 21)
    assert [(s.first, s.last) for s in segments] == [
        (first, min(first + MAX_BLOCKS, 100)) for first in range(0, 100, MAX_BLOCKS)
    ]


def _sentences(text: str, markup: str = "wikitext") -> list[list[str]]:
    page = Page(1, "T" * 300_000, 0, False, "wikitext", text, markup)  # type: ignore[arg-type]
    return page_to_sentences(page, "en").paragraphs


@pytest.mark.parametrize("digits", ["9" * 5000, "²", "٣" * 5000, "9" * 12, "①", "0" * 5000 + "1"])
def test_numbers_in_an_article_never_end_a_job(digits: str) -> None:
    templates = [
        "{{a|%s=x}}", "{{#tag:%s}}", "{{as of|%s|%s|%s}}", "{{as of|2010|%s}}", "{{as of|2010|6|%s}}",
        "{{convert|%s|km}}", "{{val|%s}}", "{{formatnum:%s}}", "{{circa|%s}}", "{{lang|en|%s}}",
        "{{plural:%s|a|b}}", "{{10^|%s}}", "{{date|%s|%s|%s}}", "{{sic|%s}}", "{{birth date|%s|%s|%s}}",
        "&#%s;", "&#x%s;", "&#%s", "[[a|%s]]", "[[Image:a.png|%spx]]", "<sup>%s</sup>", "== %s ==",
        "{{Bio|Nome=A|Sesso=M|AnnoNascita=%s}}", "%s. ",
    ]  # fmt: skip
    for template in templates:
        text = "A sentence before it. " + template.replace("%s", digits) + " A sentence after it."
        for language in ("en", "fr", "de", "it", "ar", "zh"):
            page = Page(1, "T", 0, False, "wikitext", text, "wikitext")
            page_to_sentences(page, language)
        assert _sentences(text)
        assert _sentences(text, "extracted")


def test_a_long_number_of_a_character_is_a_replacement_character() -> None:
    assert unescape("a&#999999999999;b") == "a\ufffdb"
    assert unescape(f"a&#{'9' * 5000};b") == "a\ufffdb"
    assert unescape(f"&#{'0' * 5000}65;&#65;&#x41;&amp;") == "AAA&"


def test_the_title_that_an_article_repeats_has_a_limit() -> None:
    text = "{{PAGENAME}} is a word. " * 1000
    assert sum(len(s) for p in _sentences(text) for s in p) < 300_000


def test_a_line_of_a_million_characters_is_split_in_seconds() -> None:
    begin = "".join(f"这是第{n}句话。" for n in range(1000))
    page = Page(1, "", 0, False, "wikitext", begin * 140, "plain")
    assert Counter(map(len, page_to_sentences(page, "zh").paragraphs)) == {140_000: 1}


def test_the_tags_of_an_extractor_are_read_as_before() -> None:
    import io

    text = (
        '<doc id="1" url="u" title="A "quoted" title">\none\n</doc>\n'
        '<doc id="2">\ntwo\n</doc>\n<doc id="3" title="">\nthree\n</doc>\n'
    )
    pages = list(read_docs(io.BufferedReader(io.BytesIO(text.encode())), "a", Numbering()))
    assert [(p.page_id, p.title, p.text) for p in pages] == [
        (1, 'A "quoted" title', "one"),
        (2, "", "two"),
        (3, "", "three"),
    ]
