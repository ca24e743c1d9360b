"""Two hosts on one machine: network namespaces with names and addresses of their own, and a link.

    with TwoHosts(folder) as hosts:
        process = hosts[1].start(["python", ...], environment, log)
        hosts.cut()                          # packets vanish in silence, as with a broken switch

No rights are needed where the kernel lets users make namespaces (``unshare -Urn``). Both hosts see
the same files and processes.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

ADDRESSES = ("10.99.0.1", "10.99.0.2")
_TOOLS = ("unshare", "nsenter", "ip", "hostname")


def missing() -> str:
    """Why this machine allows no namespaces; "" if it does."""
    for tool in _TOOLS:
        if shutil.which(tool, path=_path()) is None:
            return f"two hosts need the program {tool}"
    script = "ip link add link0 type veth peer name link1 && hostname node0"
    tried = subprocess.run(
        ["unshare", "-Urnu", "bash", "-c", script],
        capture_output=True,
        text=True,
        env=_environment(),
    )
    if tried.returncode:
        return f"this machine allows no network namespaces: {tried.stderr.strip()[-200:]}"
    return ""


def _path() -> str:
    return f"{os.environ['PATH']}:/usr/sbin:/sbin"


def _environment() -> dict[str, str]:
    return {**os.environ, "PATH": _path()}


class Host:
    """One of the hosts."""

    def __init__(self, number: int, holder: subprocess.Popen[bytes]) -> None:
        self.number, self.address = number, ADDRESSES[number]
        self.interface, self.name = f"link{number}", f"node{number}"
        self._holder = holder

    def inside(self, command: Sequence[str], *, from_host: bool = False) -> list[str]:
        """The command that runs ``command`` on this host, as the same process.

        ``from_host``: it is called on one of the hosts, whose rights it then has already.
        """
        rights = [] if from_host else ["-U", "--preserve-credentials"]
        return ["nsenter", "-t", str(self._holder.pid), *rights, "-n", "-u", *command]

    def run(self, *command: str) -> str:
        """Run a command to its end; its output."""
        return subprocess.run(
            self.inside(command), check=True, capture_output=True, text=True, env=_environment()
        ).stdout

    def start(
        self, command: Sequence[str], environment: dict[str, str], log: Path
    ) -> subprocess.Popen[bytes]:
        """Start a command, with its output in ``log``."""
        with log.open("ab") as file:
            return subprocess.Popen(
                self.inside(command),
                env=_environment() | {"GLOO_SOCKET_IFNAME": self.interface} | environment,
                stdout=file,
                stderr=file,
            )


class TwoHosts:
    """The hosts and the link between them; ``folder`` gets the stand-in for ssh."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._hosts: list[Host] = []

    def __getitem__(self, number: int) -> Host:
        return self._hosts[number]

    def first(self, count: int) -> list[Host]:
        """The first hosts."""
        return self._hosts[:count]

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        first = self._hold(["unshare", "-Urnu", "sleep", "infinity"])
        self._hosts = [Host(0, first)]
        self._hosts.append(
            Host(1, self._hold(self[0].inside(["unshare", "-nu", "sleep", "infinity"])))
        )
        peer = str(self[1]._holder.pid)
        self[0].run(
            "ip", "link", "add", "link0", "type", "veth", "peer", "name", "link1", "netns", peer
        )
        for host in self._hosts:
            host.run("hostname", host.name)
            host.run("ip", "addr", "add", f"{host.address}/24", "dev", host.interface)
            host.run("ip", "link", "set", host.interface, "up")
            host.run("ip", "link", "set", "lo", "up")
        self._write_ssh()
        return self

    def _hold(self, command: list[str]) -> subprocess.Popen[bytes]:
        """A process that keeps a namespace; returns when it is in it."""
        process = subprocess.Popen(command, env=_environment())
        deadline = time.monotonic() + 10.0
        while Path(f"/proc/{process.pid}/comm").read_text().strip() != "sleep":
            assert process.poll() is None, "no namespace"
            assert time.monotonic() < deadline
            time.sleep(0.01)
        return process

    def __exit__(self, *_: object) -> None:
        for host in self._hosts[::-1]:
            host._holder.send_signal(signal.SIGKILL)
            host._holder.wait()

    def cut(self) -> None:
        """From now on what one host sends does not arrive, and it gets no error."""
        for host, other in (self._hosts, self._hosts[::-1]):
            nowhere = ["lladdr", "02:00:00:00:00:99", "nud", "permanent"]
            host.run("ip", "neigh", "replace", other.address, *nowhere, "dev", host.interface)

    def mend(self) -> None:
        """Packets arrive again."""
        for host, other in (self._hosts, self._hosts[::-1]):
            host.run("ip", "neigh", "del", other.address, "dev", host.interface)

    def _write_ssh(self) -> None:
        """A program ``ssh`` that starts a shell on the host of that address, and a hostfile."""
        cases = ""
        for host in self._hosts:
            shell = ["env", f"GLOO_SOCKET_IFNAME={host.interface}", "bash", "-c"]
            cases += (
                f'{host.address}) exec {shlex.join(host.inside(shell, from_host=True))} "$*";;\n'
            )
        ssh = self.folder / "ssh"
        ssh.write_text(
            "#!/bin/bash\n"
            'while [[ "$1" == -* ]]; do case "$1" in -[olpi]) shift 2;; *) shift;; esac; done\n'
            f'host="${{1##*@}}"; shift\ncase "$host" in\n{cases}'
            '*) echo "no host $host" >&2; exit 255;;\nesac\n'
        )
        ssh.chmod(0o755)
        slots = "".join(f"{host.address} slots=1\n" for host in self._hosts)
        (self.folder / "hostfile").write_text(slots)

    @property
    def ssh_path(self) -> str:
        """PATH that finds the stand-in for ssh first."""
        return f"{self.folder}:{Path(sys.executable).parent}:{_path()}"
