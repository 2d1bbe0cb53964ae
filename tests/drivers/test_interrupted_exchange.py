"""Ctrl-C between a command and its reply: the next command gets its own reply."""

import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
import zmq
from bellbench.drivers.base import closed_on_error
from bellbench.drivers.transports import Endpoint
from bellbench.drivers.transports.visa import VisaLink
from bellbench.drivers.transports.zeromq import Requester

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals as POSIX has them")


@dataclass
class SlowBox:
    """Answers each command by itself; the first one only once it is told to."""

    port: int
    asked: threading.Event = field(default_factory=threading.Event)
    go_on: threading.Event = field(default_factory=threading.Event)

    def answer(self, command: str) -> str:
        if not self.asked.is_set():
            self.asked.set()
            assert self.go_on.wait(20)
        return f"{command} answered"

    @contextlib.contextmanager
    def interrupting(self) -> Iterator[None]:
        """Press Ctrl-C when the first command has arrived, and let the box answer it then."""

        def press() -> None:
            assert self.asked.wait(20)
            os.kill(os.getpid(), signal.SIGINT)

        presser = threading.Thread(target=press)
        presser.start()
        with pytest.raises(KeyboardInterrupt):
            yield
        presser.join()
        self.go_on.set()


@pytest.fixture
def line_box() -> Iterator[SlowBox]:
    server = socket.create_server(("127.0.0.1", 0))
    box = SlowBox(server.getsockname()[1])

    def talk(connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection, connection.makefile("rw") as lines:
            for line in lines:
                lines.write(box.answer(line.strip()) + "\n")
                lines.flush()

    talks = []

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                talks.append(threading.Thread(target=talk, args=server.accept()[:1]))
                talks[-1].start()

    accepting = threading.Thread(target=serve)
    accepting.start()
    yield box
    server.shutdown(socket.SHUT_RDWR)
    for thread in [accepting, *talks]:
        thread.join(20)
    server.close()


@pytest.fixture
def zmq_box() -> Iterator[SlowBox]:
    context = zmq.Context()
    replier = context.socket(zmq.REP)
    box = SlowBox(replier.bind_to_random_port("tcp://127.0.0.1"))

    def serve() -> None:
        with contextlib.suppress(zmq.ContextTerminated), replier:
            while True:
                replier.send_string(box.answer(replier.recv_string()))

    serving = threading.Thread(target=serve)
    serving.start()
    yield box
    context.term()
    serving.join(20)


def test_a_visa_link_never_takes_the_reply_of_an_interrupted_query(line_box: SlowBox) -> None:
    address = f"TCPIP::127.0.0.1::{line_box.port}::SOCKET"
    link = VisaLink(Endpoint("pump", "CLD1015", address), timeout_s=10)
    link.open()
    try:
        with line_box.interrupting():
            link.query("MEAS:POW?")
        assert link.query("SYST:ERR?") == "SYST:ERR? answered"
        assert link.query("*IDN?") == "*IDN? answered"
    finally:
        link.close()


def test_a_requester_goes_on_after_an_interrupted_request(zmq_box: SlowBox) -> None:
    requester = Requester(Endpoint("tagger", "ID900", ""), timeout_s=10)
    requester.open("127.0.0.1", zmq_box.port)
    try:
        with zmq_box.interrupting():
            requester.request("REC:STOP")
        assert requester.request("STAT?") == "STAT? answered"
        assert requester.request("*IDN?") == "*IDN? answered"
    finally:
        requester.close()


def test_an_opening_that_is_interrupted_leaves_nothing_open() -> None:
    closed: list[str] = []

    class Link:
        def __init__(self, name: str) -> None:
            self.name = name

        def close(self) -> None:
            closed.append(self.name)

    with closed_on_error(Link("a")):
        assert closed == []
    with pytest.raises(KeyboardInterrupt), closed_on_error(Link("a"), Link("b")):
        raise KeyboardInterrupt
    assert closed == ["a", "b"]
