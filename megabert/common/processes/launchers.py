"""The launchers that started this process, and whether they are still there.

deepspeed and torchrun do not end their ranks when they are killed. A rank therefore remembers, from its
start, which of its ancestors are launchers, and looks whether each is still the same process. Shells,
``nohup`` and init are not launchers: a run may outlive the shell that started it.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from megabert.common.processes.kernel import process_stat

_PROGRAMS = frozenset({
    "deepspeed", "ds", "torchrun", "accelerate", "mpirun", "mpiexec", "mpiexec.hydra", "orterun",
    "prterun", "prun", "orted", "prted", "hydra_pmi_proxy", "srun", "slurmstepd", "horovodrun", "pdsh",
})  # fmt: skip
_INNER = "deepspeed.launcher.launch"
_MODULES = frozenset({
    "deepspeed.launcher.runner", _INNER, "torch.distributed.run", "torch.distributed.launch",
    "accelerate.commands.launch",
})  # fmt: skip
_SHELLS = frozenset({
    "sh", "bash", "dash", "zsh", "ksh", "fish", "csh", "tcsh", "login", "su", "sudo", "screen", "tmux",
    "init", "systemd", "tini", "dumb-init", "docker-init", "supervisord", "containerd-shim", "cron",
    "crond", "atd", "sshd", "nohup", "setsid",
})  # fmt: skip
"""Programs that may end before what they have started."""
_MOST_ANCESTORS = 40
# ranks of this host, as torchrun, deepspeed, Open MPI and MPICH name them
_LOCAL_SIZES = (
    "LOCAL_WORLD_SIZE", "LOCAL_SIZE", "OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS",
)  # fmt: skip


def ranks_of_host(environment: Mapping[str, str]) -> int:
    """How many ranks of the run are on this host; 0 if no launcher says it."""
    if environment.get("WORLD_SIZE") == "1":
        return 1
    return next((int(environment[name]) for name in _LOCAL_SIZES if environment.get(name)), 0)


@dataclass(frozen=True)
class Launcher:
    """A process that must outlive this one.

    Attributes:
        pid: its process number; 0 for one that was gone already when this process started.
        started: its start; with ``pid`` it names one process only.
        name: its program.
    """

    pid: int
    started: int
    name: str

    @property
    def gone(self) -> bool:
        """Whether it has ended (a zombie has ended as well)."""
        found = process_stat(self.pid)
        return found is None or found.ended or found.started != self.started

    def __str__(self) -> str:
        return f"{self.name} (process {self.pid})" if self.pid else self.name


@dataclass(frozen=True)
class _Process:
    pid: int
    parent: int
    started: int
    words: tuple[str, ...]

    @property
    def program(self) -> str:
        """Base name of the program, or of the script or module that a Python runs."""
        first = Path(self.words[0]).name.lstrip("-") if self.words else ""
        if self.words and self.words[0].startswith(("slurmstepd", "sshd")):  # "sshd: user@notty"
            return first.split(":")[0]
        if not first.startswith("python"):
            return first
        words = list(self.words[1:])
        while words and words[0].startswith("-") and words[0] not in ("-m", "-c"):
            words = words[2 if words[0] in ("-X", "-W") else 1 :]
        if words[:1] == ["-m"]:
            return words[1] if len(words) > 1 else first
        if words and words[0].endswith("launch/run.py"):
            return "launch/run.py"
        return Path(words[0]).name if words and words[0] != "-c" else first

    @property
    def is_python(self) -> bool:
        return bool(self.words) and Path(self.words[0]).name.startswith("python")

    @property
    def is_launcher(self) -> bool:
        return self.program in _PROGRAMS | _MODULES | {"launch/run.py"} or self.is_remote_shell

    @property
    def is_remote_shell(self) -> bool:
        """A shell that deepspeed's pdsh launcher started on another host."""
        text = self.words[-1] if "-c" in self.words else ""
        return self.program in _SHELLS and _INNER in text


def _read(pid: int) -> _Process | None:
    stat = process_stat(pid)
    if stat is None:
        return None
    try:
        line = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return None
    words = line.decode(errors="replace").rstrip("\0").split("\0")
    if len(words) == 1 and words[0].startswith(("slurmstepd", "sshd")):
        words = words[0].split(" ")
    return _Process(pid, stat.parent, stat.started, tuple(filter(None, words)))


def _ancestors(pid: int) -> Iterator[_Process]:
    for _ in range(_MOST_ANCESTORS):
        process = _read(pid)
        if process is None:
            return
        yield process
        if pid == 1:
            return
        pid = process.parent


def find_launchers() -> list[Launcher]:
    """The launchers among this process's ancestors, the nearest first; [] without ``/proc``.

    The direct parent counts as one unless it is a shell or the like. One that is gone already is in the
    list, too, where it can be known: deepspeed's inner launcher without the outer one.
    """
    ancestors = list(_ancestors(os.getppid()))
    hangup_ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return _choose(ancestors, os.environ, hangup_ignored)


def _choose(
    ancestors: Sequence[_Process], environment: Mapping[str, str], hangup_ignored: bool
) -> list[Launcher]:
    found = []
    for place, process in enumerate(ancestors):
        before = ancestors[place - 1] if place else None
        counts = process.is_launcher
        if place == 0 and process.pid != 1 and not hangup_ignored:
            counts = counts or process.program not in _SHELLS
        if before is not None and before.is_remote_shell and process.program == "sshd":
            counts = not hangup_ignored
        if counts:
            found.append(Launcher(process.pid, process.started, process.program))
        missing = _missing_parent(process, ancestors[place + 1 :])
        if missing:
            found.append(Launcher(0, 0, missing))
    orphan = bool(ancestors) and ancestors[0].pid == 1 and not ancestors[0].is_python
    if "TORCHELASTIC_RUN_ID" in environment and orphan:
        found.append(Launcher(0, 0, "torchrun"))
    return found


def _missing_parent(process: _Process, above: Sequence[_Process]) -> str | None:
    """``deepspeed`` if ``process`` is its inner launcher and has lost it.

    On one host deepspeed starts it itself, with ``--enable_each_rank_log``; it is a Python program.
    """
    if process.program != _INNER or not above:
        return None
    ours = any(word.startswith("--enable_each_rank_log") for word in process.words)
    remote = any(word.startswith("--node_rank") for word in process.words)
    return "deepspeed" if ours and not remote and not above[0].is_python else None


STARTED_BY = find_launchers()
"""The launchers of this process, as it found them when it started."""
