"""Frames over TCP with a hostile wire in between: each arrives once, in order, or nothing does."""

from __future__ import annotations

import contextlib
import random
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from bellbench.instruments import BellbenchError
from bellbench.net import Conversation, Link, parse_address
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect as ws_connect

PATIENCE_S = 20.0
HELLO = struct.Struct("!4sB16s16sQQ")


class Wire:
    """A TCP proxy that can delay, cut after any byte, and go silent without hanging up."""

    def __init__(self, to: tuple[str, int], delay_s: float = 0.0) -> None:
        self._to = to
        self._delay_s = delay_s
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._muted: list[tuple[socket.socket, socket.socket]] = []
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._budget: int | None = None  # bytes until the cable is cut
        self.cuts = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = "{}:{}".format(*self._listener.getsockname())
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def cut(self) -> None:
        """Break what is connected now."""
        with self._lock:
            self._cut()

    def cut_after(self, size: int) -> None:
        """Break it after so many bytes more."""
        with self._lock:
            self._budget = size

    def mute(self) -> None:
        """Pass nothing on any more, and hang nothing up; new calls get through."""
        with self._lock:
            self._muted += self._pairs
            self._pairs.clear()

    def close(self) -> None:
        self._closing.set()
        self._listener.close()
        self.cut()

    def _cut(self) -> None:
        self._budget = None
        self.cuts += bool(self._pairs)
        for pair in self._pairs + self._muted:
            for end in pair:
                with contextlib.suppress(OSError):
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
                end.close()
        self._pairs.clear()
        self._muted.clear()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
                far = socket.create_connection(self._to)
            except OSError:
                if self._closing.is_set():
                    return
                near.close()
                continue
            for end in (near, far):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            pair = (near, far)
            with self._lock:
                self._pairs.append(pair)
            for a, b in (pair, pair[::-1]):
                line: deque[tuple[float, bytes]] = deque()
                news = threading.Condition()
                for work in (self._read, self._write):
                    threading.Thread(
                        target=work, args=(pair, a, b, line, news), daemon=True
                    ).start()

    def _read(self, pair: Any, a: Any, b: Any, line: Any, news: threading.Condition) -> None:
        while True:
            try:
                data = a.recv(1 << 16)
            except OSError:
                data = b""
            with news:
                line.append((time.monotonic() + self._delay_s, data))
                news.notify()
                news.wait_for(lambda: len(line) < 1000 or self._closing.is_set(), PATIENCE_S)
            if not data:
                return

    def _write(self, pair: Any, a: Any, b: Any, line: Any, news: threading.Condition) -> None:
        while True:
            with news:
                news.wait_for(lambda: bool(line))
                due, data = line.popleft()
                news.notify()
            self._closing.wait(max(0.0, due - time.monotonic()))
            with self._lock:
                known = pair in self._pairs
                left = self._budget
                if left is not None and known:
                    self._budget = left - len(data)
            if not known:
                if not data:
                    return
                continue  # muted
            with contextlib.suppress(OSError):
                if left is not None and left < len(data):
                    b.sendall(data[:left])
                    with self._lock:
                        self._cut()
                elif data:
                    b.sendall(data)
                else:
                    b.shutdown(socket.SHUT_WR)
            if not data:
                return


@contextlib.contextmanager
def linked(delay_s: float = 0.0, **options: Any) -> Iterator[tuple[Link, Link, Wire]]:
    with Link(listen="127.0.0.1:0", **options) as a:
        wire = Wire(a.address, delay_s)
        try:
            with Link(connect=wire.address, **options) as b:
                yield a, b, wire
        finally:
            wire.close()


def talk(link: Link) -> Conversation:
    found = link.conversation(PATIENCE_S)
    assert found is not None, link.state
    return found


def until(what: Callable[[], bool], link: Link) -> None:
    """Wait until something holds, which need not be news."""
    deadline = time.monotonic() + PATIENCE_S
    with link._news:
        while not what():
            assert time.monotonic() < deadline, link.state
            link._news.wait(0.02)


def take(conversation: Conversation, count: int) -> list[bytes]:
    frames: list[bytes] = []
    deadline = time.monotonic() + PATIENCE_S
    while len(frames) < count and time.monotonic() < deadline and not conversation.over:
        frames += conversation.receive(0.5)
    return frames


def put(conversation: Conversation, frame: bytes) -> None:
    """Send, waiting where the queue is full."""
    deadline = time.monotonic() + PATIENCE_S
    while not conversation.send(frame):
        assert time.monotonic() < deadline
        assert not conversation.over
        with conversation._news:
            conversation._news.wait(0.05)


# -- the rules, without a network


class NoNetwork:
    """What a conversation needs of a link."""

    def __init__(self, own: bytes) -> None:
        self._own = own
        self._news = threading.Condition()
        self._frame_limit, self._window = 1 << 20, 300_000
        self._woken = False

    def _work(self) -> None: ...

    def _raise_failure(self) -> None: ...


def conversations() -> tuple[Conversation, Conversation]:
    ends = [NoNetwork(bytes([i]) * 16) for i in (1, 2)]
    a, b = (
        Conversation(end, ends[1 - i]._own)  # type: ignore[arg-type]
        for i, end in enumerate(ends)
    )
    return a, b


STEP = st.one_of(
    st.tuples(st.just("send"), st.integers(0, 1), st.integers(0, 200_000)),
    st.tuples(st.just("carry"), st.integers(0, 1), st.integers(1, 8)),
    st.tuples(st.just("take"), st.integers(0, 1), st.just(0)),
    st.tuples(st.just("cut"), st.integers(0, 4), st.integers(0, 4)),
)


@settings(max_examples=150)
@given(st.lists(STEP, max_size=60))
def test_whatever_is_cut_when_every_frame_arrives_once_and_in_order(
    steps: list[tuple[str, int, int]],
) -> None:
    ends = conversations()
    sent: tuple[list[bytes], list[bytes]] = ([], [])
    got: tuple[list[bytes], list[bytes]] = ([], [])
    wires: tuple[deque[bytes], deque[bytes]] = (deque(), deque())  # from each end, on their way

    def carry(i: int, count: int) -> int:
        for _ in range(count):
            message = ends[i]._next()
            if message is None:
                break
            wires[i].append(message)
        moved = min(count, len(wires[i]))
        for _ in range(moved):
            ends[1 - i]._take(wires[i].popleft())
        return moved

    def cut() -> None:
        numbers = [(end._received, end._taken) for end in ends]
        for i, end in enumerate(ends):
            wires[i].clear()
            end._resume(*numbers[1 - i])

    for kind, i, size in steps:
        if kind == "send":
            frame = len(sent[i]).to_bytes(4, "big") + bytes(size)
            if ends[i].send(frame):
                sent[i].append(frame)
        elif kind == "carry":
            carry(i, size)
        elif kind == "take":
            got[i].extend(ends[i].receive())
        else:
            for j, count in enumerate((i, size)):  # some more gets through before
                for _ in range(count):
                    message = ends[j]._next()
                    wires[j].extend([] if message is None else [message])
            cut()
        for end in ends:  # bounded, whatever happens
            assert end._kept_bytes <= 300_000 + 200_000 + 10 * 65
    while True:
        moved = carry(0, 100) + carry(1, 100)
        taken = [ends[i].receive() for i in (0, 1)]
        got[0].extend(taken[0])
        got[1].extend(taken[1])
        if not moved and not any(taken):
            break
    assert got[1] == sent[0]
    assert got[0] == sent[1]
    assert all(end.idle for end in ends)


@pytest.mark.parametrize(
    "message",
    [
        "text",
        b"",
        b"\x00",
        b"\x01",
        b"\x03" + bytes(20),
        struct.pack("!BBQ", 1, 2, 1) + b"x",  # a flag that is none
        struct.pack("!BBQ", 1, 0, 1) + b"short",  # short, yet not the last
        struct.pack("!BBQ", 1, 1, 1) + bytes(65_537),  # long
        struct.pack("!BBQ", 1, 1, 2) + b"x",  # the first left out
        struct.pack("!BQ", 2, 1),  # acknowledges what was not sent
        struct.pack("!BQ", 2, 2**63),
        struct.pack("!BQ", 2, 0) + b"x",
    ],
)
def test_what_is_no_message_is_refused(message: bytes | str) -> None:
    a, _ = conversations()
    with pytest.raises(Exception, match="it ") as caught:
        a._take(message)
    assert type(caught.value).__name__ == "_FaultError"


def test_who_sends_more_than_allowed_is_refused() -> None:
    a, _ = conversations()
    number = 0

    def flood(piece: bytes, last: int) -> None:
        nonlocal number
        for _ in range(200_000):
            number += 1
            a._take(struct.pack("!BBQ", 1, last, number) + piece)

    with pytest.raises(Exception, match="a frame above the limit"):
        flood(bytes(65_536), 0)
    a, _ = conversations()
    number = 0
    with pytest.raises(Exception, match="more than it was allowed"):
        flood(b"", 1)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("192.168.1.7:5017", ("192.168.1.7", 5017)),
        ("[::1]:80", ("::1", 80)),
        (":5017", ("", 5017)),
        ("lab.example:0", ("lab.example", 0)),
    ],
)
def test_addresses(text: str, address: tuple[str, int]) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize("text", ["", "host", "host:", "host:http", "::1:80", "a:70000", "a:-1"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="write host:port"):
        parse_address(text)


# -- over sockets


def test_frames_of_any_size_arrive_in_order_both_ways() -> None:
    frames = [bytes([i]) * size for i, size in enumerate((0, 1, 65_536, 65_537, 5_000_000, 3))]
    with linked() as (a, b, _):
        first, second = talk(a), talk(b)
        assert first.number == second.number
        for frame in frames:
            put(first, frame)
            put(second, frame[::-1])
        assert take(second, len(frames)) == frames
        assert take(first, len(frames)) == [frame[::-1] for frame in frames]
        until(lambda: first.idle and second.idle, a)


def test_a_frame_above_the_limit_is_not_sent() -> None:
    a, _ = conversations()
    with pytest.raises(BellbenchError, match=r"1,048,577 bytes is above the limit of 1,048,576"):
        a.send(bytes((1 << 20) + 1))


def test_cut_cables_lose_and_double_nothing() -> None:
    rng = random.Random(5)
    frames = [rng.randbytes(rng.choice((3, 300, 30_000, 100_000))) for _ in range(300)]
    got: list[list[bytes]] = [[], []]
    with linked() as (a, b, wire):
        ends = (talk(a), talk(b))

        def send(i: int) -> None:
            for frame in frames:
                put(ends[i], frame)

        def receive(i: int) -> None:
            got[i] += take(ends[i], len(frames))

        threads = [
            threading.Thread(target=work, args=(i,)) for work in (send, receive) for i in (0, 1)
        ]
        for thread in threads:
            thread.start()
        for size in (1_000_000, 300_000, 1, 1_000_000, 5000, 20_000, 700, 1_000_000, 100_000):
            made = b.connections
            wire.cut_after(size)  # some of them cut the handshakes
            until(lambda: b.connections > made, b)  # noqa: B023 - at once
        for thread in threads:
            thread.join(PATIENCE_S)
        assert not ends[0].over
        assert not ends[1].over
        assert wire.cuts >= 9
    assert got == [frames, frames]


def test_a_connection_that_has_gone_silent_is_given_up_and_resumed() -> None:
    with linked(patience_s=0.9) as (a, b, wire):
        first, second = talk(a), talk(b)
        put(first, b"before")
        assert take(second, 1) == [b"before"]
        wire.mute()
        for i in range(10):
            put(first, b"from a %d" % i)
            put(second, b"from b %d" % i)
        assert take(second, 10) == [b"from a %d" % i for i in range(10)]
        assert take(first, 10) == [b"from b %d" % i for i in range(10)]
        assert b.connections == 2


def test_a_restarted_party_is_noticed_and_talked_to_anew() -> None:
    with Link(listen="127.0.0.1:0") as a:
        where = "{}:{}".format(*a.address)
        with Link(connect=where) as b:
            first = talk(a)
            put(first, b"never taken")
            put(talk(b), b"taken")
            assert take(first, 1) == [b"taken"]
        until(lambda: bool(first.over), a)
        assert first.over == "the other party has ended"
        assert not first.send(b"too late")
        with Link(connect=where) as b:
            again = talk(a)
            assert again is not first
            put(again, b"new")
            assert take(talk(b), 1) == [b"new"]  # and nothing of before


@pytest.mark.parametrize("listener", [True, False])
def test_either_end_may_begin_anew(listener: bool) -> None:
    with linked() as (a, b, _):
        mine, theirs = (a, b) if listener else (b, a)
        first, second = talk(mine), talk(theirs)
        put(second, b"of the old one")
        mine.begin()
        assert first.over == "begun anew"
        until(lambda: bool(second.over), theirs)
        assert second.over == "the other party begins anew"
        put(talk(theirs), b"of the new one")
        assert take(talk(mine), 1) == [b"of the new one"]
        assert talk(a).number == talk(b).number != first.number


def test_a_slow_reader_holds_the_sender_back_and_loses_nothing() -> None:
    with linked(window=1 << 20, frame_limit=1 << 22) as (a, b, _):
        first, second = talk(a), talk(b)
        sent = 0
        until(lambda: b._connected, b)
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline and first.send(sent.to_bytes(4, "big") + bytes(50_000)):
            sent += 1
        assert 20 <= sent <= 22  # a window of it
        until(lambda: not first._queue, a)  # all on its way; nothing of it was taken
        assert not first.send(b"")
        assert [frame[:4] for frame in take(second, sent)] == [
            i.to_bytes(4, "big") for i in range(sent)
        ]
        put(first, bytes(1 << 22))  # longer than the window
        put(first, b"after it")
        assert [len(frame) for frame in take(second, 2)] == [1 << 22, 8]


def test_a_latecomer_is_told_so_and_gets_in_when_the_first_has_gone() -> None:
    with Link(listen="127.0.0.1:0") as a:
        where = "{}:{}".format(*a.address)
        with Link(connect=where) as b:
            first = talk(a)
            with Link(connect=where) as late:
                until(lambda: "busy with another party" in late._state, late)
                assert late.conversation() is None
                put(talk(b), b"undisturbed")
                assert take(first, 1) == [b"undisturbed"]
                b.close()
                put(talk(late), b"at last")
                assert take(talk(a), 1) == [b"at last"]


def test_who_is_not_who_he_should_be_is_avoided_for_a_while() -> None:
    with Link(listen="127.0.0.1:0") as a:
        where = "{}:{}".format(*a.address)
        with Link(connect=where) as wrong:
            talk(a)
            a.begin(avoid_s=60)
            until(lambda: "not welcome" in wrong._state, wrong)
            assert a.conversation() is None
            with Link(connect=where) as right:
                put(talk(right), b"hello")
                assert take(talk(a), 1) == [b"hello"]


def raw(address: tuple[str, int], data: bytes) -> None:
    with socket.create_connection(address, PATIENCE_S) as scanner:
        scanner.settimeout(PATIENCE_S)
        scanner.sendall(data)
        with contextlib.suppress(ConnectionError):
            scanner.shutdown(socket.SHUT_WR)
            while scanner.recv(65_536):
                pass


def guest(address: tuple[str, int], *messages: bytes | str) -> ConnectionClosed:
    """Speak WebSocket; returns how it was closed."""
    with ws_connect("ws://{}:{}/".format(*address), proxy=None, compression=None) as socket_:
        try:
            for message in messages:
                socket_.send(message)
            while True:
                socket_.recv(PATIENCE_S)
        except ConnectionClosed as closed:
            return closed


def hello(own: bytes = b"x" * 16, known: bytes = bytes(16), version: int = 1) -> bytes:
    return HELLO.pack(b"BBLK", version, own, known, 0, 0)


def test_port_scanners_and_strangers_disturb_nobody(caplog: pytest.LogCaptureFixture) -> None:
    rng = random.Random(1)
    with linked() as (a, b, _):
        first, second = talk(a), talk(b)
        for data in (b"", b"\x00" * 100, b"GET / HTTP/1.0\r\n\r\n", b"x" * 100_000):
            raw(a.address, data)
        raw(a.address, rng.randbytes(10_000))
        for messages in (("text",), (b"",), (rng.randbytes(53),), (hello()[:-1],)):
            closed = guest(a.address, *messages)
            assert closed.rcvd is not None
            assert closed.rcvd.code == 4003
        assert "version" in str(guest(a.address, hello(version=9)))
        assert guest(a.address, bytes(100_000)).rcvd.code == 1009  # type: ignore[union-attr]
        assert "busy" in str(guest(a.address, hello()))
        put(second, b"undisturbed")
        assert take(first, 1) == [b"undisturbed"]
        assert a.connections == 1
    assert not caplog.records


@pytest.mark.parametrize(
    "fault",
    [
        ("text",),
        (b"\x07",),
        (struct.pack("!BBQ", 1, 1, 7) + b"later",),
        (struct.pack("!BQ", 2, 1),),
        tuple(struct.pack("!BBQ", 1, 0, n) + bytes(65_536) for n in range(1, 20)),
        (bytes(100_000),),
    ],
)
def test_a_party_that_breaks_the_rules_is_hung_up_on_and_the_next_one_heard(
    fault: tuple[bytes | str, ...],
) -> None:
    with Link(listen="127.0.0.1:0", frame_limit=1 << 20) as a:
        closed = guest(a.address, hello(), *fault)
        assert closed.rcvd is not None
        assert closed.rcvd.code in (4003, 1009)
        with Link(connect="{}:{}".format(*a.address)) as b:
            put(talk(b), b"in order")
            until(lambda: a._connected, a)
            assert take(talk(a), 1) == [b"in order"]


def test_what_a_stranger_says_in_leaving_cannot_steer_a_terminal() -> None:
    with Link(listen="127.0.0.1:0") as a:
        with ws_connect("ws://{}:{}/".format(*a.address), proxy=None) as socket_:
            socket_.send(hello())
            until(lambda: a._connected, a)
            socket_.close(4000, "left\x1b]0;\nbellbench: all is well")
        until(lambda: "left" in a._state, a)
        assert a.state == "the other party left ]0; bellbench: all is well"


def test_a_listener_that_breaks_the_rules_does_not_keep_the_caller_busy() -> None:
    """What answers is no party: the caller goes on trying, and ends when told to."""
    server = socket.create_server(("127.0.0.1", 0))
    with server, Link(connect="{}:{}".format(*server.getsockname())) as b:
        for answer in (b"", b"SSH-2.0-x\r\n", b"HTTP/1.1 200 OK\r\n\r\n"):
            caller, _ = server.accept()
            caller.sendall(answer)
            caller.close()
        until(lambda: "no connection" in b._state, b)
        assert b.conversation() is None


def test_latency_costs_little_throughput() -> None:
    """A piece per round trip would take 512 x 40 ms = 20 s."""
    with linked(0.02) as (a, b, _):
        first, second = talk(a), talk(b)

        def send() -> None:
            for _ in range(32):
                put(first, bytes(1 << 20))

        began = time.monotonic()
        sender = threading.Thread(target=send)
        sender.start()
        assert len(take(second, 32)) == 32
        sender.join()
        assert time.monotonic() - began < 5.0


def test_a_port_that_is_taken_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        where = "{}:{}".format(*taken.getsockname())
        with pytest.raises(BellbenchError, match=f"cannot listen at {where}"):
            Link(listen=where)


def test_whoever_waits_can_be_woken() -> None:
    with linked() as (a, b, _):
        first = talk(a)
        talk(b)
        timer = threading.Timer(0.05, a.wake)
        timer.start()
        began = time.monotonic()
        assert first.receive(PATIENCE_S) == []
        assert time.monotonic() - began < PATIENCE_S / 2
        timer.join()
