"""Connections of the watch: each rank sends lines of JSON to rank 0, which answers each of them."""

from __future__ import annotations

import contextlib
import hmac
import json
import os
import selectors
import socket
import time
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from megabert.common.json_text import JsonError, parse_json

Message = dict[str, Any]
_LONGEST_LINE = 1 << 20
_open: weakref.WeakSet[socket.socket] = weakref.WeakSet()


def _close_copies() -> None:
    """A forked child (a loader's worker) must not keep its parent's connections open."""
    for sock in list(_open):
        sock.close()


os.register_at_fork(after_in_child=_close_copies)


@dataclass
class Link:
    """One connection, cut into messages.

    Attributes:
        open: False once the other side has closed it, or it failed.
        reset: it failed, rather than being closed.
    """

    sock: socket.socket
    rank: int | None = None
    open: bool = True
    reset: bool = False
    _buffer: bytearray = field(default_factory=bytearray)

    def __post_init__(self) -> None:
        _open.add(self.sock)

    def send(self, message: Message) -> None:
        """Send without waiting; a side that does not read for long has its connection closed."""
        data = json.dumps(message).encode() + b"\n"
        try:
            if self.open and self.sock.send(data, socket.MSG_DONTWAIT) < len(data):
                self.close(reset=True)
        except BlockingIOError:
            pass  # it does not read: that shows as silence
        except OSError:
            self.close(reset=True)

    def receive(self) -> list[Message]:
        """The messages that have arrived, without waiting."""
        try:
            data = self.sock.recv(1 << 16, socket.MSG_DONTWAIT)
            if not data:
                self.close()
            self._buffer += data
        except BlockingIOError:
            pass
        except OSError:
            self.close(reset=True)
        *lines, rest = bytes(self._buffer).split(b"\n")
        self._buffer = bytearray(rest)
        try:
            found = [parse_json(line, of_data=True) for line in lines]
            if len(rest) > _LONGEST_LINE or not all(isinstance(one, dict) for one in found):
                raise ValueError
        except (ValueError, JsonError):  # not one of ours
            self.close(reset=True)
            return []
        return found

    def close(self, reset: bool = False) -> None:
        """End it; ``reset``: because it failed. The owner closes the socket."""
        if self.open:
            self.open, self.reset = False, reset
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)


class Hub:
    """Rank 0's side: a port for all others."""

    def __init__(self, token: str) -> None:
        self._token = token
        dual = socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if dual else socket.AF_INET
        self._server = socket.create_server(
            ("", 0), family=family, backlog=4096, dualstack_ipv6=dual
        )
        _open.add(self._server)
        self._server.setblocking(False)
        self._ready = selectors.DefaultSelector()
        self._ready.register(self._server, selectors.EVENT_READ)
        self.lines: list[Link] = []

    @property
    def port(self) -> int:
        """The port that the others connect to."""
        return int(self._server.getsockname()[1])

    def receive(self, seconds: float) -> Iterator[tuple[Link, Message]]:
        """Messages that arrive within ``seconds``; new connections are accepted."""
        for key, _ in self._ready.select(max(0.0, seconds)):
            if key.data is None:
                self._accept()
                continue
            for message in key.data.receive():
                if key.data.rank is None and not self._admit(key.data, message):
                    break
                yield key.data, message
        for line in [line for line in self.lines if not line.open]:
            self._ready.unregister(line.sock)
            self.lines.remove(line)
            line.sock.close()
            yield line, {"closed": True}

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            sock, _ = self._server.accept()
            self.lines.append(Link(sock))
            self._ready.register(sock, selectors.EVENT_READ, self.lines[-1])

    def _admit(self, line: Link, message: Message) -> bool:
        """Whether a connection's first message shows that it is one of the run's."""
        token = str(message.get("token")).encode()
        if hmac.compare_digest(token, self._token.encode()):
            line.rank = int(message["rank"])
            return True
        line.close()
        return False

    def send(self, message: Message) -> None:
        """Send to every rank that is connected."""
        for line in self.lines:
            line.send(message)

    def close(self) -> None:
        """Close the port and all connections."""
        self._ready.close()
        for sock in (self._server, *(line.sock for line in self.lines)):
            sock.close()


class Spoke:
    """Another rank's side."""

    def __init__(self, address: tuple[str, int], hello: Mapping[str, Any]) -> None:
        self._address, self._hello = address, dict(hello)
        self.line: Link | None = None

    def connect(self, seconds: float) -> bool:
        """Connect to rank 0 within ``seconds``; False if that fails."""
        try:
            sock = socket.create_connection(self._address, timeout=max(0.1, seconds))
        except OSError:
            return False
        self.close()
        self.line = Link(sock)
        self.line.send(self._hello)
        return True

    def receive(self, seconds: float) -> list[Message]:
        """Messages of rank 0 within ``seconds``."""
        if self.line is None or not self.line.open:
            time.sleep(max(0.0, seconds))
            return []
        with selectors.DefaultSelector() as ready:
            ready.register(self.line.sock, selectors.EVENT_READ)
            arrived = ready.select(max(0.0, seconds))
        return self.line.receive() if arrived else []

    def close(self) -> None:
        """Close the connection."""
        if self.line is not None:
            self.line.close()
            self.line.sock.close()
