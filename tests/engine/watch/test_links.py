"""Connections of the watch: who is let in, what a lost side looks like."""

from __future__ import annotations

import os
import socket
import time

from megabert.engine.watch.links import Hub, Message, Spoke


def _heard(hub: Hub, count: int) -> list[tuple[int | None, Message]]:
    found: list[tuple[int | None, Message]] = []
    deadline = time.monotonic() + 5.0
    while len(found) < count and time.monotonic() < deadline:
        found += [(line.rank, message) for line, message in hub.receive(0.1)]
    return found


def _pair() -> tuple[Hub, Spoke]:
    hub = Hub("token")
    spoke = Spoke(("127.0.0.1", hub.port), {"token": "token", "rank": 3})
    assert spoke.connect(2.0)
    return hub, spoke


def test_messages_and_the_end_of_a_connection() -> None:
    hub, spoke = _pair()
    assert spoke.line is not None
    spoke.line.send({"beat": 1})
    assert _heard(hub, 2) == [(3, {"token": "token", "rank": 3}), (3, {"beat": 1})]
    hub.send({"verdict": 2})
    assert spoke.receive(2.0) == [{"verdict": 2}]
    spoke.close()
    assert _heard(hub, 1) == [(3, {"closed": True})]
    hub.close()


def test_a_stranger_is_not_let_in() -> None:
    hub = Hub("token")
    for data in (
        b'{"token": "other", "rank": 0}\n{"beat": 1}\n',
        b"GET / HTTP/1.1\r\n\r\n",
        b"[1]\n",
    ):
        with socket.create_connection(("127.0.0.1", hub.port)) as stranger:
            stranger.sendall(data)
            assert [rank for rank, _ in _heard(hub, 1)] in ([], [None])
            assert stranger.recv(10) == b""
    assert hub.lines == []
    hub.close()


def test_a_forked_child_does_not_keep_the_connection_open() -> None:
    hub, spoke = _pair()
    _heard(hub, 1)
    child = os.fork()
    if child == 0:
        time.sleep(30.0)
        os._exit(0)
    try:
        spoke.close()
        began = time.monotonic()
        assert _heard(hub, 1) == [(3, {"closed": True})]
        assert time.monotonic() - began < 4.0
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)
        hub.close()
