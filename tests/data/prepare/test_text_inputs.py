"""Text that is not a wiki, from files to shards: layouts, bad lines, words, any number of workers."""

from __future__ import annotations

import json
import logging
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from data_tools.shard_wiki import summary
from megabert.common import names
from megabert.common.errors import UserError
from megabert.common.log import get_logger
from megabert.data.inspect.report import total_lines
from megabert.data.prepare.job import ShardingOptions, ShardingReport, shard
from megabert.data.shards.corpus import Corpus
from megabert.data.shards.manifest import InputInfo, load_manifest
from tests.helpers.small_dump import write_dump, write_vocabulary
from tests.helpers.wrapped_text import sentences, wrapped

FAULTS = Path(__file__).resolve().parents[4] / "shared" / "faults"


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_vocabulary(tmp_path_factory.mktemp("vocabulary") / "vocab.txt")


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    logger = get_logger()
    logger.addHandler(caplog.handler)
    caplog.set_level(logging.INFO, "megabert")
    yield caplog
    logger.removeHandler(caplog.handler)


def run(vocabulary: Path, output: Path, *inputs: Path, **changes: Any) -> ShardingReport:
    options = {
        "eval_fraction": 0.0,
        "min_document_tokens": 0,
        "start_method": "fork",
        "shards": 1,
        **changes,
    }
    report = shard(ShardingOptions(inputs, vocabulary, output, **options))
    assert report is not None
    return report


def lengths(output: Path) -> list[int]:
    """Sentences of each document, in order."""
    corpus = Corpus.open(output, names.TRAIN)
    return [len(corpus.sentence_starts(number)) - 1 for number in range(corpus.num_documents)]


def folder_of_texts(folder: Path, count: int = 12) -> Path:
    """Files of three hard-wrapped paragraphs of nine sentences."""
    folder.mkdir()
    for number in range(count):
        paragraphs = [wrapped(3 * number + part) for part in range(3)]
        (folder / f"{number:02}.txt").write_text("\n\n".join(paragraphs) + "\n")
    return folder


def test_a_folder_is_one_document_per_file(
    vocabulary: Path, tmp_path: Path, log: pytest.LogCaptureFixture
) -> None:
    folder = folder_of_texts(tmp_path / "texts")
    report = run(vocabulary, tmp_path / "out", folder)
    assert lengths(tmp_path / "out") == [27] * 12
    size = sum(len(path.read_text()) for path in folder.iterdir()) / 12
    [line] = [m for m in log.messages if "text files" in m]
    assert line == (
        f"{folder}: 12 text files, read as one document per file, hard-wrapped lines joined: 12 "
        f"documents of {size:.0f} characters on average; --documents and --line-breaks change this"
    )
    assert not any("short" in message for message in log.messages)
    [info] = report.manifest.inputs
    assert info.read_as == "text (documents file, lines joined)"
    body = json.loads((tmp_path / "out" / names.MANIFEST).read_text())
    assert body["documents"] == {"read": 12, "kept": 12}
    assert body["options"]["documents"] == "auto"
    text = summary(report, tmp_path / "out") + "\n".join(total_lines(tmp_path, report.manifest))
    assert "12 documents kept of 12" in text
    assert "mean length of a document: 27.0 sentences" in text
    assert "article" not in text
    assert "page" not in text
    assert load_manifest(tmp_path / "out") == report.manifest


def test_marks_and_blank_lines_that_are_left_out_are_logged(
    vocabulary: Path, tmp_path: Path, log: pytest.LogCaptureFixture
) -> None:
    text = "\n\n".join(wrapped(number) for number in range(9))
    quoted, doubled, numbered = (tmp_path / name for name in ("quoted", "doubled", "numbered"))
    quoted.write_text("".join(f"> {line}\n" for line in text.split("\n")))
    other = "\n\n".join(wrapped(number) for number in range(9, 18))
    doubled.write_text(other.replace("\n", "\n\n"))
    numbered.write_text("".join(f"{n}. {s}\n" for n, s in enumerate(sentences(50, 30), 1)))
    run(vocabulary, tmp_path / "out", quoted, doubled, numbered)
    assert lengths(tmp_path / "out") == [*[9] * 18, *[1] * 30]
    count = len(text.split("\n"))
    assert (
        f"{quoted}: marks at the edges of lines are removed: '> ' {count} of {count} lines in "
        "what was sampled; --line-marks keep keeps them"
    ) in log.messages
    assert (
        f"{doubled}: blank lines between the lines of a paragraph (double spacing) are left out; "
        "--line-breaks keep keeps them"
    ) in log.messages
    assert (
        f"{numbered}: marks at the beginning of lines stay in the text: line numbers 30 of 30 lines "
        "in what was sampled; if they do not belong to it, give --line-marks remove"
    ) in log.messages
    log.clear()
    run(vocabulary, tmp_path / "kept", quoted, line_marks="keep")
    assert not any("marks at the" in message for message in log.messages)
    with pytest.raises(UserError, match="--line-marks 'drop' is unknown"):
        run(vocabulary, tmp_path / "bad", quoted, line_marks="drop")


@pytest.mark.parametrize("changes", [{"workers": 3}, {"segment_bytes": 100}, {"resume": True}])
def test_the_same_bytes_however_it_is_read(
    vocabulary: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    folder = folder_of_texts(tmp_path / "texts")
    (folder / "z.jsonl").write_text(json.dumps({"text": wrapped(99)}) + "\n")
    run(vocabulary, tmp_path / "one", folder, segment_bytes=changes.get("segment_bytes", 10**6))
    run(vocabulary, tmp_path / "two", folder, **changes)
    one, two = (
        {p.name: p.read_bytes() for p in (tmp_path / name).iterdir() if p.suffix == ".h5"}
        for name in ("one", "two")
    )
    assert one == two
    limited = run(vocabulary, tmp_path / "three", folder, max_pages=5, **changes)
    assert lengths(tmp_path / "three") == [27] * 5
    assert limited.manifest.articles_read == 5


def test_many_files_given_by_name_and_archives(
    vocabulary: Path, tmp_path: Path, log: pytest.LogCaptureFixture
) -> None:
    files = sorted(folder_of_texts(tmp_path / "texts").iterdir())
    run(vocabulary, tmp_path / "many", *files)
    assert lengths(tmp_path / "many") == [27] * 12
    assert "and 11 more inputs: 12 text files, read as one document per file" in log.text
    run(vocabulary, tmp_path / "few", *files[:2])
    assert lengths(tmp_path / "few") == [9] * 6
    split = run(vocabulary, tmp_path / "split", *files, eval_fraction=0.3)
    assert 0 < split.manifest.splits[names.EVAL].documents < 12  # by the names of the files
    with tarfile.open(tmp_path / "texts.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "texts", "texts")
    run(vocabulary, tmp_path / "tar", tmp_path / "texts.tar.gz")
    assert lengths(tmp_path / "tar") == [27] * 12
    with tarfile.open(tmp_path / "long.tar", "w") as archive:
        for number in range(70):
            archive.add(files[number % 12], f"{number}.txt")
    log.clear()
    run(vocabulary, tmp_path / "long", tmp_path / "long.tar")
    assert "64 or more text files, read as one document per file" in log.text


def test_markdown_is_named(vocabulary: Path, tmp_path: Path, log: pytest.LogCaptureFixture) -> None:
    parts = [f"## Part {number}\n\nSee [the page](a.md). {wrapped(number)}" for number in range(5)]
    (tmp_path / "a.md").write_text("# Title\n\n" + "\n\n".join(parts))
    run(vocabulary, tmp_path / "out", tmp_path / "a.md")
    assert "1 of the files look like Markdown; its marks are not removed" in log.text


def test_short_documents_are_named(
    vocabulary: Path, tmp_path: Path, log: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "lines.txt"
    path.write_text("\n".join(sentences(0, 30)))
    run(vocabulary, tmp_path / "out", path)
    assert "read as one document per line: 30 documents of" in log.text
    assert "the documents are short: 1.0 sentences on average" in log.text
    assert "say what a document is with --documents" in log.text
    log.clear()
    run(vocabulary, tmp_path / "file", path, documents="file")
    assert lengths(tmp_path / "file") == [30]
    assert "are short" not in log.text
    log.clear()
    dump = write_dump(tmp_path / "wiki.xml.bz2", count=4)
    run(vocabulary, tmp_path / "wiki", dump, documents="file", language="en")
    assert "--documents has no effect: no input is plain text" in log.text


def test_bad_lines_are_counted_and_the_first_ones_named(
    vocabulary: Path, tmp_path: Path, log: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "a.jsonl"
    good = [json.dumps({"body": " ".join(sentences(number))}) for number in range(5)]
    path.write_text("\n".join([*good, *["{"] * 8, '{"text": "x"}']))
    with pytest.raises(UserError, match=r"a\.jsonl: line 1 has no field 'text' .it has 'body'."):
        run(vocabulary, tmp_path / "out", path)
    with pytest.raises(UserError, match=r"a\.jsonl: line 6 is not complete JSON"):
        run(vocabulary, tmp_path / "out", path, text_field="body")
    assert not (tmp_path / "out").exists()
    report = run(vocabulary, tmp_path / "out", path, text_field="body", bad_lines="skip")
    assert dict(report.manifest.dropped) == {"bad line": 9}
    assert report.manifest.articles_read == 14
    left_out = [m for m in log.messages if m.startswith("left out")]
    assert len(left_out) == 5
    assert f"{path}: line 6 is not complete JSON" in left_out[0]
    assert "text from the field 'body'" in log.text


def test_older_manifests_keep_their_words_and_fingerprint() -> None:
    info = InputInfo("a", 1, "0")
    assert info.as_dict() == {"name": "a", "bytes": 1, "sha256": "0"}
    assert InputInfo("a", 1, "0", "text").as_dict()["read_as"] == "text"


@pytest.mark.skipif(not FAULTS.is_dir(), reason="the folder ../shared/faults is missing")
@pytest.mark.parametrize(
    ("name", "documents", "number"), [("array.json", 40, 12), ("wrapped.txt", 10, 12)]
)
def test_the_small_inputs_that_failed(
    vocabulary: Path, tmp_path: Path, name: str, documents: int, number: int
) -> None:
    run(vocabulary, tmp_path / "out", FAULTS / name)
    assert lengths(tmp_path / "out") == [number] * documents
