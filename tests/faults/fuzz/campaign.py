"""Runs readers of the table on damaged inputs, each in a forked process with limits.

    python -m tests.faults.fuzz.campaign --readers plain|models|NAME... --inputs 1000 --first 0

Prints a JSON object per reader. Input number N of a reader is always the same file:
``--first N --inputs 1 --keep FOLDER`` writes it. With ``--log FILE`` the inputs run in parts, each part
appends a line to the file, and a second run goes on where the first one ended, reader by reader.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import mmap
import os
import random
import resource
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

from megabert.common.errors import UserError
from tests.faults.fuzz.reader import FuzzedReader

SECONDS = 5.0
"""Of computing for one input; then it counts as a hang, as it does after 15 times as long of waiting."""
MEMORY = 2 << 30
"""Bytes of address space above what the process had before the first input."""
_MOST_FAULTS = 3  # of a reader; then its campaign, or this part of it, ends
_PART = 5000  # inputs for one line of a log
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_CODE = (
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "subprocess.Popen",
    "os.forkpty",
    "pty.spawn",
)
_CHANGES = (
    "os.remove",
    "os.rename",
    "os.rmdir",
    "os.mkdir",
    "os.link",
    "os.symlink",
    "os.chmod",
    "os.truncate",
)


class _TooLong(BaseException):
    """An input takes longer than SECONDS."""


class _Watch:
    """Notes code that runs and files that are written outside of a folder (by an audit hook)."""

    def __init__(self, inside: Path) -> None:
        self.inside = str(inside.resolve())
        self.seen: list[str] = []
        self.on = False
        sys.addaudithook(self._hook)

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.on:
            return
        if event in _CODE:
            self.seen.append(f"code runs: {event} {arguments!r:.100}")
        elif event == "socket.connect":
            self.seen.append(f"a connection: {arguments!r:.100}")
        elif event == "open" and isinstance(arguments[0], str | bytes):
            flags = arguments[2] if isinstance(arguments[2], int) else 0
            if flags & _WRITING:
                self._written(event, os.fsdecode(arguments[0]))
        elif event in _CHANGES and isinstance(arguments[0], str | bytes):
            self._written(event, os.fsdecode(arguments[0]))

    def _written(self, event: str, name: str) -> None:
        place = os.path.realpath(name)
        if not place.startswith((self.inside, "/dev/null", "/proc/self")):
            self.seen.append(f"a file outside: {event} {place[:150]}")


def mutated(reader: FuzzedReader, content: bytes, number: int) -> tuple[str, bytes]:
    """Input ``number`` of a reader (its valid file holds ``content``), and what was done to it."""
    draw = random.Random(f"{reader.name} {number}")
    inner = reader.unpack is not None and draw.random() < 0.5
    done = []
    changed = reader.unpack(content) if inner and reader.unpack else content
    for _ in range(draw.choice((1, 1, 2))):
        mutation = draw.choice(reader.mutations)
        changed = mutation(changed, draw)
        done.append(mutation.__name__)
    if inner and reader.pack:
        changed = reader.pack(changed)
        done.append("packed again")
    if reader.seal is not None and draw.random() < 0.6:
        with contextlib.suppress(Exception):
            changed = reader.seal(changed)
            done.append("sums made right")
    return ", ".join(done), changed


def _one(
    reader: FuzzedReader, path: Path, watch: _Watch, seconds: float = SECONDS
) -> tuple[str, str]:
    """(fault or "", outcome) of reading a file."""
    watch.seen.clear()
    watch.on = True
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        reader.read(path)
        outcome, fault = "read", ""
    except UserError as error:
        outcome, fault = "refused", "" if str(error).strip() else "an empty message"
    except _TooLong:
        outcome, fault = (
            "hang",
            f"takes longer than {SECONDS:g} s\n{traceback.format_exc()[-1200:]}",
        )
    except BaseException as error:  # of any kind: that is what is looked for
        outcome, fault = (
            "exception",
            f"{type(error).__name__}: {error!s:.300}\n{traceback.format_exc()[-1500:]}",
        )
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        watch.on = False
    if watch.seen:
        return watch.seen[0], outcome
    return fault, outcome


def _alarm(*_: object) -> None:
    raise _TooLong


def _work(reader: FuzzedReader, folder: Path, numbers: range, shared: mmap.mmap) -> None:
    """The forked process: reads the inputs and appends faults to ``folder/faults``."""
    os.chdir(folder)
    sys.stderr = sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    signal.signal(signal.SIGPROF, _alarm)
    sample = folder / "sample"
    shutil.rmtree(sample, ignore_errors=True)
    sample.mkdir()
    target = reader.make(sample)
    valid = target.read_bytes()
    watch = _Watch(folder)
    fault, outcome = _one(reader, target, watch, 12 * SECONDS)  # it imports what it needs
    faults = (folder / "faults").open("a", encoding="utf-8")
    if outcome != "read":
        print(
            json.dumps({"number": -1, "fault": f"the valid input is not read: {fault}{outcome}"}),
            file=faults,
            flush=True,
        )
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for number in numbers:
        done, changed = mutated(reader, valid, number)
        target.write_bytes(changed)
        latest = int(time.process_time() + 2 * SECONDS)  # a library that returns to no handler
        resource.setrlimit(resource.RLIMIT_CPU, (latest, resource.RLIM_INFINITY))
        shared[:16] = struct.pack("<qd", number, time.monotonic())
        fault, outcome = _one(reader, target, watch)
        if (folder / "planted").exists() or (sample / "planted").exists():
            fault = "code ran"
        if fault:
            line = {"number": number, "mutations": done, "fault": fault}
            print(json.dumps(line), file=faults, flush=True)
        counts = list(struct.unpack("<qq", shared[16:32]))
        counts[outcome == "refused"] += outcome in ("read", "refused")
        shared[16:32] = struct.pack("<qq", *counts)
    shared[:16] = struct.pack("<qd", numbers.stop, time.monotonic())


def run_reader(reader: FuzzedReader, numbers: range) -> dict[str, Any]:
    """Faults of these inputs, and how many were read and refused."""
    began, computed = time.monotonic(), _computed()
    faults: list[dict[str, Any]] = []
    shared = mmap.mmap(-1, 32)
    folder = Path(tempfile.mkdtemp(prefix="fuzz-", dir=_memory_folder()))
    first = numbers.start
    try:
        while first < numbers.stop and len(faults) < _MOST_FAULTS:
            shared[:16] = struct.pack("<qd", first - 1, time.monotonic())
            process = os.fork()
            if process == 0:
                status = 1
                try:
                    _work(reader, folder, range(first, numbers.stop), shared)
                    status = 0
                except BaseException:
                    (folder / "crash").write_text(traceback.format_exc())
                finally:
                    os._exit(status)
            ended = _wait(process, shared, folder)
            at = struct.unpack("<q", shared[:8])[0]
            if ended is not None and (ended or at < numbers.stop):
                crash = _text_of(folder / "crash")
                if at < first:
                    raise RuntimeError(f"{reader.name}: the campaign failed: {ended} {crash}")
                done, _ = mutated(reader, _valid(reader), at)
                what = ended or crash or "the process ends"
                faults.append({"number": at, "mutations": done, "fault": what})
            first = at if ended is None else at + 1
            (folder / "crash").unlink(missing_ok=True)
            if _text_of(folder / "faults").count("\n") >= _MOST_FAULTS:
                break
        faults += [json.loads(line) for line in _text_of(folder / "faults").splitlines()]
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    read, refused = struct.unpack("<qq", shared[16:32])
    return {
        "reader": reader.name,
        "inputs": min(first, numbers.stop) - numbers.start,
        "read": read,
        "refused": refused,
        "seconds": round(time.monotonic() - began, 1),
        "cpu": round(_computed() - computed, 1),
        "faults": faults,
    }


def _computed() -> float:
    """Seconds of computing of the processes that were waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _memory_folder() -> str | None:
    """Where files need no disk: some file systems write a file at once if it replaces another one."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def _run_with_log(reader: FuzzedReader, inputs: int, log: Path) -> None:
    """Run what the log does not have of a reader's first ``inputs``."""
    lines = [json.loads(line) for line in _text_of(log).splitlines()]
    first = max([0, *(line["next"] for line in lines if line["reader"] == reader.name)])
    while first < inputs:
        commit = subprocess.run(
            ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=True
        ).stdout.strip()
        result = run_reader(reader, range(first, min(first + _PART, inputs)))
        first += result["inputs"]
        with log.open("a", encoding="utf-8") as file:
            print(json.dumps(result | {"next": first, "commit": commit}), file=file)


def _text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""


def _valid(reader: FuzzedReader) -> bytes:
    with tempfile.TemporaryDirectory() as place:
        return reader.make(Path(place)).read_bytes()


def _wait(process: int, shared: mmap.mmap, folder: Path) -> str | None:
    """How a process ends, "" for well; one that stands still is killed. None: there are enough faults."""
    while True:
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            if os.WIFSIGNALED(status):
                return f"the process ends by {signal.Signals(os.WTERMSIG(status)).name}"
            return "" if os.WEXITSTATUS(status) == 0 else "the process ends"
        since = struct.unpack("<d", shared[8:16])[0]
        if time.monotonic() - since > 15 * SECONDS:
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
            return "hangs where no signal ends it"
        faults = folder / "faults"
        if faults.exists() and faults.read_text(encoding="utf-8").count("\n") > _MOST_FAULTS:
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
            return None
        time.sleep(0.01)


def readers_of(groups: list[str]) -> list[FuzzedReader]:
    """The readers of these groups (plain, models, wrong), or those with these names."""
    found: list[FuzzedReader] = []
    named = [group for group in groups if group not in ("plain", "models", "wrong")]
    if named or "plain" in groups:
        from tests.faults.fuzz.plain_readers import PLAIN

        found += PLAIN
    if set(named) - {reader.name for reader in found} or "models" in groups:  # imports torch
        from tests.faults.fuzz.model_readers import MODELS

        found += MODELS
    if "wrong" in groups:
        from tests.faults.fuzz.wrong_readers import WRONG

        found += WRONG
    if not named:
        return found
    chosen = [reader for reader in found if reader.name in named]
    if len(chosen) < len(named):
        raise SystemExit(f"readers are {', '.join(reader.name for reader in found)}")
    return chosen


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--readers", nargs="+", default=["plain"])
    parser.add_argument("--inputs", type=int, help="of each reader; its own number for make test")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument(
        "--keep", type=Path, help="write the inputs to this folder, and read nothing"
    )
    parser.add_argument("--log", type=Path, help="append to it, and continue where it ends")
    given = parser.parse_args()
    if given.keep is not None:
        given.keep.mkdir(parents=True, exist_ok=True)
    for reader in readers_of(given.readers):
        count = reader.quick if given.inputs is None else given.inputs
        if given.log is not None:
            _run_with_log(reader, count, given.log)
            continue
        numbers = range(given.first, given.first + count)
        if given.keep is not None:
            target = reader.make(given.keep)
            content = target.read_bytes()
            for number in numbers:
                done, changed = mutated(reader, content, number)
                target.write_bytes(changed)
                print(number, done, target)
            continue
        print(json.dumps(run_reader(reader, numbers)), flush=True)


if __name__ == "__main__":
    main()
