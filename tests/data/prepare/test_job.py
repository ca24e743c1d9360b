"""The sharding job: pure content, resume, bounded memory, failures that leave nothing behind."""

from __future__ import annotations

import bz2
import dataclasses
import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from data_tools import shard_wiki
from megabert.common import names
from megabert.common.errors import UserError
from megabert.data.inspect.verify import verify_folder
from megabert.data.prepare import job as sharding
from megabert.data.prepare import output_folder, plan, worker
from megabert.data.prepare.encode import in_eval_split
from megabert.data.prepare.job import ShardingOptions, ShardingReport, shard
from megabert.data.shards.corpus import Corpus
from megabert.data.shards.manifest import load_manifest
from tests.helpers.small_dump import write_dump, write_vocabulary

SEGMENT = 4000  # packed bytes: about ten segments


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("sources")
    return write_dump(folder / "wiki.xml.bz2"), write_vocabulary(folder / "vocab.txt")


def options(sources: tuple[Path, Path], output: Path, **changes: Any) -> ShardingOptions:
    dump, vocabulary = sources
    base = ShardingOptions(
        inputs=(dump,),
        tokenizer=vocabulary,
        output=output,
        shards=3,
        eval_fraction=0.2,
        min_document_tokens=8,
        start_method="fork",
        segment_bytes=SEGMENT,
    )
    return dataclasses.replace(base, **changes)


def run(sources: tuple[Path, Path], output: Path, **changes: Any) -> ShardingReport:
    report = shard(options(sources, output, **changes))
    assert report is not None
    return report


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def reference(
    sources: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, ShardingReport]:
    output = tmp_path_factory.mktemp("reference") / "shards"
    return output, run(sources, output)


def test_what_is_kept_and_counted(reference: tuple[Path, ShardingReport]) -> None:
    folder, report = reference
    manifest = verify_folder(folder)
    assert manifest == report.manifest
    assert report.batches > 5
    assert manifest.articles_read == 60 + 2 * 6
    assert dict(manifest.dropped) == {"namespace": 6, "redirect": 6}
    assert manifest.articles_kept == 60
    assert manifest.splits[names.EVAL].documents > 0
    assert {p.name for p in folder.iterdir()} == {
        "manifest.json",
        "document_lengths.bin",
        "tokenizer",
        *(info.file for split in manifest.splits.values() for info in split.shards),
    }
    ids = [
        corpus.document_id(d)
        for corpus in (Corpus.open(folder, split) for split in names.SPLITS)
        for d in range(corpus.num_documents)
    ]
    assert sorted(ids) == [10 * n for n in range(1, 61)]
    for split in names.SPLITS:
        corpus = Corpus.open(folder, split)
        found = [corpus.document_id(d) for d in range(corpus.num_documents)]
        assert found == sorted(found)  # the order of the dump
        for page in found:
            assert in_eval_split(page, f"Place {page // 10}", 0, 0.2) == (split == names.EVAL)


def test_shards_are_balanced_by_tokens(reference: tuple[Path, ShardingReport]) -> None:
    folder, report = reference
    sizes = [info.tokens for info in report.manifest.splits[names.TRAIN].shards]
    assert len(sizes) == 3
    assert max(sizes) - min(sizes) <= 2 * Corpus.open(folder, names.TRAIN).document_lengths.max()


@pytest.mark.parametrize("changes", [{"workers": 3}, {"workers": 2, "start_method": "spawn"}])
def test_same_bytes_for_any_workers(
    sources: tuple[Path, Path],
    reference: tuple[Path, ShardingReport],
    tmp_path: Path,
    changes: dict[str, Any],
) -> None:
    run(sources, tmp_path / "shards", **changes)
    assert contents(tmp_path / "shards") == contents(reference[0])


def start_job(options: ShardingOptions, delay: float) -> subprocess.Popen[bytes]:
    """The job in its own process, slowed down by ``delay`` seconds per batch."""
    script = (
        "import time, pathlib\n"
        "from pathlib import PosixPath\n"
        "from megabert.data.prepare import job, worker\n"
        "from megabert.data.prepare.job import ShardingOptions\n"
        "from megabert.data.prepare.filters.choices import FilterOptions\n"
        "from megabert.common.log import run_command\n"
        "encode = worker.encode_pages\n"
        "def slow(*arguments):\n"
        f"    time.sleep({delay})\n"
        "    return encode(*arguments)\n"
        "worker.encode_pages = slow\n"
        f"run_command(lambda argv: job.shard({options!r}) and 0)\n"
    )
    return subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def finished_batches(output: Path) -> list[Path]:
    return sorted((output / output_folder.WORK_FOLDER).glob("batch-????????-????????"))


def wait_for_batches(output: Path, count: int) -> None:
    deadline = time.monotonic() + 60
    while len(finished_batches(output)) < count:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_killed_and_resumed_gives_the_same_bytes(
    sources: tuple[Path, Path], reference: tuple[Path, ShardingReport], tmp_path: Path
) -> None:
    output = tmp_path / "shards"
    process = start_job(options(sources, output, workers=2), delay=0.3)
    wait_for_batches(output, 3)
    children = _children(process.pid)
    process.kill()
    process.wait()
    assert not list(output.glob("*.h5"))
    assert children
    _wait_until_gone(children)
    with pytest.raises(UserError, match="unfinished job; continue it with --resume"):
        run(sources, output)
    with pytest.raises(UserError, match=r"seed 0 there, 5 here"):
        run(sources, output, resume=True, seed=5)
    torn = finished_batches(output)[0]
    torn.write_bytes(torn.read_bytes()[:-1])  # as if the machine had gone down while writing
    report = run(sources, output, resume=True, workers=1)
    assert 1 <= report.reused < report.batches
    assert contents(output) == contents(reference[0])
    (output / names.DOCUMENT_INDEX).unlink()
    again = run(sources, output, resume=True)
    assert contents(output) == contents(reference[0])
    assert again.batches == 0
    assert again.manifest == report.manifest
    with pytest.raises(UserError, match="already holds finished shards"):
        run(sources, output)
    with pytest.raises(UserError, match="another job"):
        run(sources, output, resume=True, min_document_tokens=9)


def _children(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in text.split()]


def _wait_until_gone(pids: list[int]) -> None:
    deadline = time.monotonic() + 30
    while any(_is_running(pid) for pid in pids):
        assert time.monotonic() < deadline, "a worker outlived its parent"
        time.sleep(0.05)


def _is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def test_a_dead_worker_stops_the_job(sources: tuple[Path, Path], tmp_path: Path) -> None:
    output = tmp_path / "shards"
    process = start_job(options(sources, output, workers=2), delay=0.3)
    wait_for_batches(output, 1)
    os.kill(_children(process.pid)[-1], signal.SIGKILL)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    [line] = [line for line in errors.decode().splitlines() if line.startswith("error")]
    assert "a worker process died" in line
    assert "Traceback" not in errors.decode()
    assert not output.exists()


def test_a_second_job_on_the_same_folder_is_refused(
    sources: tuple[Path, Path], tmp_path: Path
) -> None:
    output = tmp_path / "shards"
    process = start_job(options(sources, output), delay=1.0)
    wait_for_batches(output, 1)
    with pytest.raises(UserError, match="another job is writing there"):
        run(sources, output, resume=True)
    process.kill()
    process.communicate()


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("place", ["save_batch", "ShardWriter", "save_manifest"])
def test_a_full_disk_is_one_line(
    sources: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    place: str,
    resume: bool,
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    modules = {"save_manifest": sharding, "save_batch": worker}
    monkeypatch.setattr(modules.get(place, plan), place, full)
    output = tmp_path / "shards"
    with pytest.raises(UserError, match="No space left on device; free some space") as caught:
        run(sources, output, resume=resume)
    assert "\n" not in str(caught.value)
    if not resume:
        assert not output.exists()
        return
    assert not list(output.glob("*.tmp"))
    assert not (output / names.MANIFEST).exists()
    monkeypatch.undo()
    report = run(sources, output, resume=True)
    assert (report.reused == 0) == (place == "save_batch")
    verify_folder(output)


def test_a_full_tmpfs(sources: tuple[Path, Path], tmp_path: Path) -> None:
    mount = tmp_path / "small"
    mount.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(mount)],
        capture_output=True,
        check=False,
    )
    if made.returncode:
        pytest.skip("mounting a tmpfs is not allowed here")
    try:
        with pytest.raises(UserError, match="No space left on device; free some space"):
            run(sources, mount / "shards")
        assert not list(mount.iterdir())
    finally:
        subprocess.run(["umount", str(mount)], check=True)


def test_an_error_in_a_worker_reaches_the_user(
    sources: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise UserError("vocab.txt: something is wrong with it")

    monkeypatch.setattr(worker, "encode_pages", broken)
    (tmp_path / "shards").mkdir()
    with pytest.raises(UserError, match="something is wrong"):
        run(sources, tmp_path / "shards", workers=2)
    assert not list((tmp_path / "shards").iterdir())


def test_repeated_articles_are_dropped_once(
    sources: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dump, _ = sources
    other = tmp_path / "other.xml"
    other.write_bytes(bz2.decompress(dump.read_bytes()))
    report = run(sources, tmp_path / "shards", inputs=(dump, other))
    assert report.manifest.articles_kept == 60
    assert report.manifest.dropped["duplicate"] == 60
    assert report.manifest.articles_read == 144
    assert len(report.manifest.inputs) == 2
    assert 0 <= report.manifest.repeated_sentence_share <= 1
    said = capsys.readouterr().err
    assert "60 documents (50.0%) have the same tokens as an earlier one and were left out" in said
    assert f"60 of other.xml that are in {dump.name} too" in said
    text = shard_wiki.summary(report, tmp_path / "shards")
    assert "60 duplicate (50.0%)" in text


@pytest.mark.parametrize("limit", [None, 1000])
def test_an_input_given_twice_is_read_once(
    sources: tuple[Path, Path],
    reference: tuple[Path, ShardingReport],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    limit: int | None,
) -> None:
    """By the same path, by a link, and as a copy in a folder with another file."""
    dump, _ = sources
    link, folder = tmp_path / "link.xml.bz2", tmp_path / "folder"
    link.symlink_to(dump)
    folder.mkdir()
    (folder / "copy.bz2").write_bytes(dump.read_bytes())
    (folder / "more.txt").write_text("Another text of some words, which no dump has.\n")
    inputs = (dump, dump, link, folder)
    changes = {"inputs": inputs, "max_pages": limit, "min_document_tokens": 0}
    manifest = run(sources, tmp_path / "shards", **changes).manifest
    assert (manifest.articles_read, manifest.articles_kept) == (73, 61)
    assert [info.repeated for info in manifest.inputs] == [0, 1, 1, 1]
    assert "duplicate" not in manifest.dropped
    assert "3 of 5 input files repeat an earlier one" in capsys.readouterr().err
    if limit is None:
        alone = run(sources, tmp_path / "alone", inputs=(dump,), min_document_tokens=0)
        kept = [split.documents for split in alone.manifest.splits.values()]
        assert sum(kept) == 60


def test_only_repeated_inputs_after_the_first(
    sources: tuple[Path, Path], reference: tuple[Path, ShardingReport], tmp_path: Path
) -> None:
    manifest = run(sources, tmp_path / "shards", inputs=(sources[0], sources[0])).manifest
    assert manifest.splits.keys() == reference[1].manifest.splits.keys()
    for split, info in manifest.splits.items():
        assert info.documents == reference[1].manifest.splits[split].documents


def test_the_split_does_not_depend_on_order(
    sources: tuple[Path, Path], reference: tuple[Path, ShardingReport], tmp_path: Path
) -> None:
    one = write_dump(tmp_path / "one.xml.bz2", count=30, first=31)
    two = write_dump(tmp_path / "two.xml.bz2", count=30, first=1)
    run(sources, tmp_path / "shards", inputs=(one, two), segment_bytes=50_000)
    found = []
    for folder in (reference[0], tmp_path / "shards"):
        corpus = Corpus.open(folder, names.EVAL)
        found.append({corpus.document_id(d) for d in range(corpus.num_documents)})
    assert found[0] == found[1]


def test_no_evaluation_split_and_no_minimum(sources: tuple[Path, Path], tmp_path: Path) -> None:
    report = run(
        sources, tmp_path / "shards", eval_fraction=0.0, min_document_tokens=0, shards=None
    )
    assert report.manifest.splits[names.EVAL].shards == ()
    assert len(report.manifest.splits[names.TRAIN].shards) == 1
    assert report.manifest.articles_kept == 60
    verify_folder(tmp_path / "shards")


def test_short_articles_and_page_limit(sources: tuple[Path, Path], tmp_path: Path) -> None:
    lengths = np.concatenate(
        [
            Corpus.open(run_folder, split).document_lengths
            for run_folder in [_made(sources, tmp_path / "all", max_pages=30)]
            for split in names.SPLITS
        ]
    )
    middle = int(np.median(lengths))
    report = run(sources, tmp_path / "long", max_pages=30, min_document_tokens=middle)
    assert report.manifest.articles_read == 30
    assert report.manifest.articles_kept == int((lengths >= middle).sum())
    assert report.manifest.dropped["short"] == int((lengths < middle).sum())


def _made(sources: tuple[Path, Path], output: Path, **changes: Any) -> Path:
    run(sources, output, **changes)
    return output


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shards": 1000}, "only .* training documents"),
        ({"shards": 0}, "--shards 0"),
        ({"workers": 0}, "--workers 0"),
        ({"eval_fraction": 1.0}, "--eval-fraction"),
        ({"min_document_tokens": 10**6}, "0 articles kept of 72 pages"),
        ({"min_document_tokens": -1}, "--min-document-tokens -1"),
        ({"input_format": "parquet"}, "[Pp]arquet"),
        ({"tokenizer": Path("nowhere.txt")}, "nowhere.txt: no such tokenizer"),
        ({"inputs": (Path("nowhere.bz2"),)}, "nowhere.bz2: no such file"),
        ({"eval_fraction": 0.9999}, "all articles are in the evaluation split"),
    ],
)
def test_wrong_options_leave_nothing_behind(
    sources: tuple[Path, Path], tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        run(sources, tmp_path / "shards", **changes)
    assert not list(tmp_path.iterdir())


def test_foreign_output_is_not_touched(sources: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    for resume in (False, True):
        with pytest.raises(UserError, match="neither empty nor the folder of an unfinished job"):
            run(sources, tmp_path, resume=resume)
    with pytest.raises(UserError, match="is a file"):
        run(sources, tmp_path / "notes.txt")
    assert contents(tmp_path) == {"notes.txt": b"mine"}


def test_damaged_inputs_leave_nothing_behind(sources: tuple[Path, Path], tmp_path: Path) -> None:
    good = sources[0].read_bytes()
    inputs = tmp_path / "inputs"
    inputs.mkdir()
    for name, content in (
        ("cut.xml.bz2", good[: len(good) // 2]),
        ("empty.xml.bz2", b""),
        ("page.xml", b"<html><body>no dump</body></html>"),
    ):
        (inputs / name).write_bytes(content)
        with pytest.raises(UserError, match=name):
            run(sources, tmp_path / "shards", inputs=(inputs / name,))
        assert not (tmp_path / "shards").exists()


def test_vocabulary_of_more_than_two_bytes(sources: tuple[Path, Path], tmp_path: Path) -> None:
    entries = sources[1].read_text().split("\n")[:-1]
    entries += [f"unused{i}" for i in range(70_000)]
    path = tmp_path / "large.txt"
    path.write_text("\n".join(entries) + "\n")
    run(sources, tmp_path / "shards", tokenizer=path, max_pages=12)
    assert load_manifest(tmp_path / "shards").tokenizer.vocab_size > 65_536
    with h5py.File(tmp_path / "shards" / "train-00000-of-00003.h5", "r") as file:
        assert file["tokens"].dtype == np.uint32


@pytest.mark.slow
def test_memory_does_not_grow_with_the_corpus(sources: tuple[Path, Path], tmp_path: Path) -> None:
    peaks = []
    for count in (800, 8000):
        dump = write_dump(tmp_path / f"{count}.xml.bz2", count=count)
        job = options(
            sources,
            tmp_path / str(count),
            inputs=(dump,),
            start_method="spawn",
            batch_characters=2**18,
        )
        script = (
            "import re, resource, pathlib\nfrom pathlib import PosixPath\n"
            "from megabert.data.prepare.filters.choices import FilterOptions\n"
            "from megabert.data.prepare.job import ShardingOptions, shard\n"
            "if __name__ == '__main__':\n"
            f"    shard({job!r})\n"
            # ru_maxrss of the process itself would count what pytest had before exec
            "    status = pathlib.Path('/proc/self/status').read_text()\n"
            "    print(re.search(r'VmHWM:\\s+(\\d+)', status)[1])\n"
            "    print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)\n"
        )
        path = tmp_path / "job.py"
        path.write_text(script)
        done = subprocess.run([sys.executable, path], capture_output=True, check=True)
        peaks.append([int(line) for line in done.stdout.split()])
    for small, large in zip(*peaks):
        assert large <= 1.2 * small, peaks
