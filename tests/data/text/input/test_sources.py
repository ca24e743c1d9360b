"""Reading pages: dump schemas, compression, tar, extracted forms, damage, bounded memory."""

import bz2
import gzip
import io
import json
import lzma
import tarfile
import tracemalloc
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from megabert.common.errors import UserError
from megabert.data.text.input.sources import detect_format, iter_pages, source_sha256
from megabert.data.text.input.streams import open_streams
from megabert.data.text.reading import ReadingRules

SITEINFO = """<siteinfo><namespaces><namespace key="0" case="first-letter" />
<namespace key="6" case="first-letter">Fails</namespace>
<namespace key="10" case="first-letter">Taiss</namespace></namespaces></siteinfo>"""


def page_xml(number: int, title: str, text: str, extra: str = "<ns>0</ns>", model: str = "") -> str:
    return (
        f"<page><title>{title}</title>{extra}<id>{number}</id><revision><id>{number * 10}</id>"
        f"<contributor><username>u</username><id>7</id></contributor>{model}"
        f'<text xml:space="preserve">{text}</text></revision></page>'
    )


def dump(*pages: str, version: str = "0.11") -> bytes:
    return (
        f'<mediawiki xmlns="http://www.mediawiki.org/xml/export-{version}/" version="{version}" '
        f'xml:lang="ltg">\n{SITEINFO}\n' + "\n".join(pages) + "\n</mediawiki>\n"
    ).encode()


THREE = dump(*(page_xml(i, f"Page {i}", f"Text &amp; more {i}.") for i in (1, 2, 3)))


@pytest.mark.parametrize(
    ("name", "pack"),
    [
        ("d.xml", bytes),
        ("d.xml.bz2", bz2.compress),
        ("d.xml.gz", gzip.compress),
        ("d.xml.xz", lzma.compress),
        ("no-suffix", bz2.compress),
    ],
)
def test_dump_packed_every_way(tmp_path: Path, name: str, pack: Callable[[bytes], bytes]) -> None:
    path = tmp_path / name
    path.write_bytes(pack(THREE))
    pages = list(iter_pages(path))
    assert detect_format(path) == "mediawiki"
    assert [(p.page_id, p.title, p.text) for p in pages] == [
        (i, f"Page {i}", f"Text & more {i}.") for i in (1, 2, 3)
    ]
    assert pages[0].site.language == "ltg"
    assert "fails" in pages[0].site.file_prefixes


@pytest.mark.parametrize("pack", [bz2.compress, gzip.compress, lzma.compress])
def test_many_streams_end_to_end(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "multistream"
    cuts = [THREE[i : i + 37] for i in range(0, len(THREE), 37)]
    path.write_bytes(b"".join(pack(cut) for cut in cuts))
    assert len(list(iter_pages(path))) == 3


def test_revisions_redirects_models_and_namespaces(tmp_path: Path) -> None:
    path = tmp_path / "d.xml"
    history = (
        "<page><title>H</title><ns>0</ns><id>5</id>"
        "<revision><id>1</id><text>old</text></revision>"
        "<revision><id>2</id><model>wikitext</model><text>new</text></revision></page>"
    )
    path.write_bytes(
        dump(
            history,
            page_xml(6, "R", "#REDIRECT [[H]]", '<ns>0</ns><redirect title="H" />'),
            page_xml(7, "Taiss:T", "t", "<ns>10</ns>"),
            page_xml(8, "J", "{}", "<ns>0</ns>", "<model>json</model>"),
        )
    )
    seen = [(p.page_id, p.namespace, p.redirect, p.model, p.text) for p in iter_pages(path)]
    assert seen == [
        (5, 0, False, "wikitext", "new"),
        (6, 0, True, "wikitext", "#REDIRECT [[H]]"),
        (7, 10, False, "wikitext", "t"),
        (8, 0, False, "json", "{}"),
    ]


def test_oldest_schema_without_ns_and_redirect_elements(tmp_path: Path) -> None:
    path = tmp_path / "old.xml"
    path.write_bytes(
        dump(
            page_xml(1, "Taiss:T", "x", ""),
            page_xml(2, "Novel: a story", "text", ""),
            page_xml(3, "R", "#weiterleitung [[X]]", ""),
            version="0.3",
        )
    )
    assert [(p.namespace, p.redirect) for p in iter_pages(path)] == [
        (10, False),
        (0, False),
        (0, True),
    ]


URL = "https://xx.wikipedia.org/wiki?curid=1"
DOCS = (
    '<doc id="12" url="u" title="A &quot;B&quot;">\nA "B"\n\nFirst line.\n\n</doc>\n'
    '<doc id="13" revid="4" url="u" title="Help:Me">\nHelp:Me\n\nText.\n</doc>\n'
)
LINES = "".join(
    json.dumps({"id": str(i), "url": URL, "title": f"T{i}", "text": f"T{i}\n\nBody {i}."}) + "\n"
    for i in (4, 5)
)


def tar_of(files: dict[str, bytes], mode: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:  # type: ignore[call-overload]
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def test_wikiextractor_file_folder_and_tar(tmp_path: Path) -> None:
    path = tmp_path / "wiki_00"
    path.write_text(DOCS)
    pages = list(iter_pages(path))
    assert [(p.page_id, p.title, p.namespace) for p in pages] == [
        (12, 'A "B"', 0),
        (13, "Help:Me", 12),
    ]
    assert detect_format(path) == "wikiextractor"
    folder = tmp_path / "out"
    for part in ("AB", "AA"):
        (folder / part).mkdir(parents=True)
        (folder / part / "wiki_00").write_text(
            DOCS.replace('"12"', '"99"' if part == "AB" else '"1"')
        )
    (folder / ".hidden").write_text("x")
    assert [p.page_id for p in iter_pages(folder)] == [1, 13, 99, 13]
    for mode in ("w:xz", "w:gz", "w:bz2", "w"):
        archive = tmp_path / f"t{mode[2:]}"
        archive.write_bytes(tar_of({"AA/wiki_00": DOCS.encode(), "AA/.x": b"no"}, mode))
        assert [p.page_id for p in iter_pages(archive)] == [12, 13]
        assert detect_format(archive) == "wikiextractor"


def test_json_lines_and_plain_text(tmp_path: Path) -> None:
    path = tmp_path / "wiki_00"
    path.write_text(LINES)
    assert detect_format(path) == "wikiextractor"
    assert [(p.page_id, p.title, p.markup) for p in iter_pages(path)] == [
        (4, "T4", "extracted"),
        (5, "T5", "extracted"),
    ]
    path.write_text('\ufeff{"text": "one"}\n\n{"text": "two", "title": null}\n')
    assert detect_format(path) == "jsonl"
    assert [(p.page_id, p.text) for p in iter_pages(path)] == [(1, "one"), (2, "two")]
    path.write_text("a line\nanother\n")
    assert [p.text for p in iter_pages(path)] == ["a line", "another"]
    path.write_bytes(b"one\r\ntwo\r\n\r\nthree\r\n")
    assert [p.text for p in iter_pages(path)] == ["one\ntwo", "three"]
    path.write_text(
        " \n = Title = \n \n Text one . \n \n = = Part = = \n Text two . \n = Next = \n x \n"
    )
    assert [p.title for p in iter_pages(path)] == ["Title", "Next"]
    assert detect_format(path) == "text"


def bad_inputs() -> dict[str, tuple[str, bytes, str]]:
    packed = {
        "bz2": bz2.compress(THREE * 200),
        "gz": gzip.compress(THREE),
        "xz": lzma.compress(THREE),
    }
    cases = {
        f"truncated {kind}": (f"d.xml.{kind}", data[:-20], "truncated")
        for kind, data in packed.items()
    }
    flipped = bytearray(packed["bz2"])
    flipped[len(flipped) // 2] ^= 0x40
    two = bz2.compress(THREE[:200]) + b"junk" + bz2.compress(THREE[200:])
    return cases | {
        "flipped bz2": ("d.xml.bz2", bytes(flipped), "damaged bz2"),
        "junk between streams": ("d.xml.bz2", two, "not a bz2 stream"),
        "cut xml": ("d.xml", THREE[: len(THREE) // 2], "truncated"),
        "cut between streams": ("d.xml.bz2", bz2.compress(THREE[:-30]), "truncated"),
        "not xml": ("d.xml", b"just some text\n", "not XML"),
        "not well-formed": ("d.xml", THREE.replace(b"</title>", b"</titel>"), "not well-formed"),
        "another xml": ("d.xml", b"<?xml version='1.0'?><html/>", "<html>"),
        "html": ("page", b"<html><body>x</body></html>", "<html>"),
        "no page": ("d.xml", dump(), "has no <page>"),
        "doctype": ("d.xml", b"<?xml version='1.0'?><!DOCTYPE m [<!ENTITY a 'b'>]>" + THREE, "document type"),
        "empty": ("d.xml", b"", "empty"),
        "binary": ("d", bytes(range(256)) * 4, "unknown format"),
        "nul": ("d", b"abc\0def", "unknown format"),
        "zip": ("d.zip", b"PK\x03\x04xxxx", "zip"),
        "parquet": ("d.parquet", b"PAR1xxxx", "Parquet"),
        "open doc": ("w", DOCS.encode()[:-8], "never closed"),
        "json": ("j", b'{"text": "a"}\n{"text": \n', "line 2"),
        "json without text": ("j", b'{"title": "a"}\n', "line 1"),
        "not utf-8 later": ("t", b"good line\n" * 40000 + b"\xff\xfe\n", "not UTF-8"),
        "cut tar": ("t.tar", tar_of({"a": DOCS.encode() * 500}, "w")[:20000], "tar archive"),
    }  # fmt: skip


@pytest.mark.parametrize("case", list(bad_inputs()))
def test_wrong_input_is_one_clear_line(tmp_path: Path, case: str) -> None:
    name, content, expected = bad_inputs()[case]
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserError, match=expected) as caught:
        list(iter_pages(path))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_path_format_and_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        list(iter_pages(tmp_path / "none.xml"))
    with pytest.raises(UserError, match="empty folder"):
        list(iter_pages(tmp_path))
    with pytest.raises(UserError, match=r"--input-format .html. is unknown"):
        list(iter_pages(tmp_path, ReadingRules("html")))
    with pytest.raises(UserError, match="no such file"):
        source_sha256(tmp_path / "none.xml")


def test_memory_does_not_grow_with_the_dump(tmp_path: Path) -> None:
    def peak(pages: int) -> int:
        path = tmp_path / f"{pages}.xml.bz2"
        path.write_bytes(
            bz2.compress(dump(*(page_xml(i, "T", "word " * 200) for i in range(pages))))
        )
        tracemalloc.start()
        assert sum(1 for _ in iter_pages(path)) == pages
        top = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return top

    assert peak(4000) < 1.2 * peak(1000)


def test_source_sha256_of_file_and_folder(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert source_sha256(tmp_path / "a").startswith("ba7816bf")
    before = source_sha256(tmp_path)
    (tmp_path / "a").rename(tmp_path / "b")
    assert source_sha256(tmp_path) != before


def test_the_real_dumps(shared_data: Path) -> None:
    expected = {"aawiki-2026": (507, 19), "enwiki-latest": (206, 100), "enwiki-minidump": (27, 2),
                "enwiki-pages": (3, 1), "zhwiki": (1, 0)}  # fmt: skip
    for start, (pages, redirects) in expected.items():
        (path,) = (shared_data / "wiki_xml").glob(start + "*")
        found = Counter(page.redirect for page in iter_pages(path))
        assert (found.total(), found[True]) == (pages, redirects), start


@pytest.mark.parametrize("pack", [bz2.compress, gzip.compress, lzma.compress])
def test_streams_without_content(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "a.packed"
    path.write_bytes(pack(b"") + pack(b"One. ") + pack(b"") + pack(b"") + pack(b"Two."))
    assert [stream.read() for _, stream in open_streams(path)] == [b"One. Two."]
