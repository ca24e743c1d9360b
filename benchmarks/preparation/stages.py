"""CPU seconds of each stage of our preparation on one core, by sampling.

The job's own functions run in this process, one batch after the other. A profiling timer fires
every millisecond of CPU time; the CPU time since the last tick goes to the stage of the innermost
frame of this project on the stack. So long calls into C count in full, and nothing is wrapped.
"""

from __future__ import annotations

import dataclasses
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, BinaryIO

from megabert.data.prepare.batch_files import load_batch, save_batch
from megabert.data.prepare.encode import EncodingRules, encode_pages, page_batches
from megabert.data.prepare.options import input_bytes
from megabert.data.prepare.plan import make_plan
from megabert.data.shards.manifest import InputInfo
from megabert.data.shards.writer import ShardHeader, ShardWriter
from megabert.data.text.input.sources import iter_pages, source_sha256
from megabert.data.text.input.streams import open_streams
from megabert.data.tokenizers.load import load_tokenizer

STAGES = {
    "decompress": ("text/input/streams", "text/input/bzip2"),
    "read XML": ("text/input/", "text/pages"),
    "split sentences": ("text/sentences",),
    "clean": ("text/",),
    "encode": ("tokenizers/", "prepare/encode"),
    "write batches": ("prepare/batch_files",),
    "write shards": ("prepare/plan", "shards/"),
}
"""Stage -> beginnings of module paths under megabert/data/; the first that fits counts."""
_TICK = 0.001


@dataclass(frozen=True)
class StageProfile:
    """CPU seconds by stage, and the bytes that went in and came out of one dump."""

    dump: str
    dump_bytes: int
    unpacked_bytes: int
    pages: int
    articles: int
    text_bytes: int
    tokens: int
    batch_bytes: int
    shard_bytes: int
    seconds: dict[str, float]

    def as_json(self) -> dict[str, Any]:
        """Everything as JSON values."""
        return dataclasses.asdict(self)

    def as_markdown(self) -> str:
        """A table of stages: CPU seconds, seconds a GB of page text, share."""
        total = sum(self.seconds.values())
        lines = [
            f"\n### Stages of ours on one core: {self.dump}, {self.text_bytes / 1e6:.1f} MB of "
            "page text\n",
            "| stage | CPU s | CPU s a GB of page text | share |",
            "|---|---:|---:|---:|",
        ]
        for name, seconds in self.seconds.items():
            lines.append(
                f"| {name} | {seconds:.2f} | {1e9 * seconds / self.text_bytes:.1f} "
                f"| {100 * seconds / total:.1f} % |"
            )
        lines.append(f"| all | {total:.2f} | {1e9 * total / self.text_bytes:.1f} | 100 % |")
        lines.append(
            f"\nA byte of page text gives {self.batch_bytes / self.text_bytes:.3f} bytes of "
            f"batches, {self.shard_bytes / self.text_bytes:.3f} bytes of shards and "
            f"{self.tokens / self.text_bytes:.3f} tokens."
        )
        return "\n".join(lines)


class StageSampler:
    """Adds up CPU seconds by stage while its context is open."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self._stage_of: dict[str, str] = {}
        self._last = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Sample what runs inside."""
        before = signal.signal(signal.SIGPROF, self._tick)
        self._last = time.process_time()
        signal.setitimer(signal.ITIMER_PROF, _TICK, _TICK)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.signal(signal.SIGPROF, before)

    def _tick(self, _: int, frame: FrameType | None) -> None:
        now = time.process_time()
        while frame is not None:
            stage = self._stage(frame.f_code.co_filename)
            if stage:
                break
            frame = frame.f_back
        self.seconds[stage if frame is not None else "other"] += now - self._last
        self._last = now

    def _stage(self, file: str) -> str:
        """Stage of a source file, "" for none."""
        if file not in self._stage_of:
            _, inside, module = file.rpartition("megabert/data/")
            self._stage_of[file] = next(
                (
                    stage
                    for stage, beginnings in STAGES.items()
                    if inside and module.startswith(beginnings)
                ),
                "",
            )
        return self._stage_of[file]


def profile_stages(dump: Path, language: str, vocab: Path, work: Path) -> StageProfile:
    """Prepare a dump in this process into ``work``, and say what each stage took."""
    tokenizer = load_tokenizer(vocab)
    rules = EncodingRules(language, 32, 0.01, 0)
    began = time.process_time()
    source = InputInfo(dump.name, input_bytes(dump), source_sha256(dump))
    hashing = time.process_time() - began
    unpacked = sum(_length(stream) for _, stream in open_streams(dump))
    sampler = StageSampler()
    batches: list[Path] = []
    pages = articles = text_bytes = tokens = shard_bytes = 0
    with sampler.running():
        for group in page_batches(iter_pages(dump)):
            batch = encode_pages(group, tokenizer, rules)
            path = work / f"batch-{len(batches):08d}"
            save_batch(path, batch)
            batches.append(path)
            pages += len(group)
            text_bytes += sum(len(page.text.encode("utf-8", "replace")) for page in group)
        plan = make_plan(batches, None)
        for piece in plan.shards:
            header = ShardHeader(
                language, tokenizer.info(), piece.split, piece.index, piece.count, 0,
                source.name, source.sha256,
            )  # fmt: skip
            target = work / f"{piece.split}-{piece.index}.h5"
            sizes = {name: getattr(piece, name) for name in ("documents", "sentences", "tokens")}
            with ShardWriter(target, header, **sizes) as writer:
                for number, documents in piece.parts:
                    writer.append(load_batch(batches[number]).piece(documents))
                shard_bytes += writer.finish().bytes
            articles += piece.documents
            tokens += piece.tokens
    seconds = {name: sampler.seconds[name] for name in STAGES}
    return StageProfile(
        dump.name,
        dump.stat().st_size,
        unpacked,
        pages,
        articles,
        text_bytes,
        tokens,
        sum(path.stat().st_size for path in batches),
        shard_bytes,
        {"hash the dump": hashing, **seconds, "other": sampler.seconds["other"]},
    )


def _length(stream: BinaryIO) -> int:
    return sum(len(piece) for piece in iter(lambda: stream.read(1 << 20), b""))
