"""The PAIR sockets that push an ID900's tags, read by one thread into bounded memory."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from ...instruments import InstrumentError, TimesPs
from ..transports import Endpoint

if TYPE_CHECKING:
    import zmq

__all__ = ["PairStreams"]

_MAX_WORDS = 1 << 24  # per stream, between two reads; 128 MiB
_MAX_MESSAGES = 64  # in ZeroMQ's own buffer; beyond, the sender is held back
_POLL_S = 0.1
_FULL_POLL_S = 0.002  # with a stream set aside, which may have been emptied meanwhile


class PairStreams:
    """Receives one stream of int64 words per input.

    A stream whose words nobody takes is no longer read, so that the sender is held back and
    nothing is lost between here and there.

    Args:
        endpoint: Whose streams they are.
        count: Number of streams.
        timeout_s: Longest wait for words that were announced, wall time.
    """

    def __init__(self, endpoint: Endpoint, count: int, timeout_s: float) -> None:
        self._endpoint = endpoint
        self._count = count
        self._channels: list[str] = []
        self._timeout_s = timeout_s
        self._thread: threading.Thread | None = None
        self._news = threading.Condition()  # guards all below
        self._chunks: list[list[TimesPs]] = [[] for _ in range(count)]
        self._held = [0] * count
        self._received = [0] * count
        self._ended: set[int] = set()
        self._broken: InstrumentError | None = None
        self._closing = False

    def open(self, host: str, port: int) -> None:
        """Connect stream i to ``port + i`` and start reading."""
        import zmq

        with self._news:
            self._clear()
            self._closing, self._broken = False, None
        self._channels = [f"{host}:{port + i}" for i in range(self._count)]
        if self._endpoint.player is not None:
            for i, channel in enumerate(self._channels):
                self._endpoint.player.listen(channel, partial(self._replayed, i))
            return
        sockets: list[zmq.SyncSocket] = []
        for i in range(self._count):
            made: zmq.SyncSocket = zmq.Context.instance().socket(zmq.PAIR)
            made.setsockopt(zmq.LINGER, 0)
            made.setsockopt(zmq.RCVHWM, _MAX_MESSAGES)
            made.setsockopt(zmq.RECONNECT_IVL, 10)
            made.connect(f"tcp://{host}:{port + i}")
            sockets.append(made)
        self._thread = threading.Thread(
            target=self._run, args=(sockets,), name=f"{self._endpoint.name} streams", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Stop reading and discard what was not taken."""
        thread, self._thread = self._thread, None
        if self._endpoint.player is not None:
            for channel in self._channels:
                self._endpoint.player.unlisten(channel)
        with self._news:
            self._closing = True
            self._news.notify_all()
        if thread is not None:
            thread.join()
        with self._news:
            self._clear()

    def wait(self, received: Sequence[int]) -> None:
        """Return when each stream has received that many words since :meth:`open`.

        Raises:
            InstrumentTimeout: where they stay away although the device says it sent them.
            InstrumentError: where a stream has ended or broken.
        """
        kept: list[list[TimesPs]] = [[] for _ in range(self._count)]
        with self._news:

            def enough() -> bool:
                for i, chunks in enumerate(self._chunks):
                    kept[i] += chunks  # makes room, so that the reader goes on
                    chunks.clear()
                self._held = [0] * self._count
                self._news.notify_all()
                return self._broken is not None or all(map(int.__ge__, self._received, received))

            seen = -1
            while not (arrived := enough()) and sum(self._received) > seen:
                seen = sum(self._received)  # the timeout begins again with every word that comes
                self._news.wait_for(partial(self._more_than, seen), self._timeout_s)
            self._chunks = kept
            self._held = [sum(map(len, chunks)) for chunks in kept]
            if self._broken is not None:
                raise self._broken
            if not arrived:
                raise self._endpoint.timeout(
                    f"the streams stay behind: {self._received} words of {list(received)}"
                    f" after {self._timeout_s:g} s",
                    hint="are the stream ports right and free, and no other client on them?",
                )
            short = [i + 1 for i in self._ended]
            if short:
                raise self._endpoint.error(
                    f"the stream of input {short[0]} has ended",
                    hint="the record was stopped elsewhere; stop() and start() again",
                )

    def _more_than(self, seen: int) -> bool:
        return sum(self._received) > seen or self._broken is not None

    def take(self) -> list[TimesPs]:
        """Return the words received since the last call, one array per stream."""
        with self._news:
            chunks, self._chunks = self._chunks, [[] for _ in range(self._count)]
            self._held = [0] * self._count
            self._news.notify_all()
        empty = np.empty(0, np.int64)
        return [np.concatenate(parts) if parts else empty for parts in chunks]

    def _clear(self) -> None:
        self._chunks = [[] for _ in range(self._count)]
        self._held = [0] * self._count
        self._received = [0] * self._count
        self._ended = set()

    def _run(self, sockets: list[zmq.SyncSocket]) -> None:
        import zmq

        try:
            while True:
                with self._news:
                    self._news.wait_for(lambda: self._closing or min(self._held) < _MAX_WORDS)
                    if self._closing:
                        return
                    open_ = [i for i in range(self._count) if self._held[i] < _MAX_WORDS]
                patience = _POLL_S if len(open_) == self._count else _FULL_POLL_S
                ready, _, _ = zmq.select([sockets[i] for i in open_], [], [], patience)
                for i in open_:
                    if sockets[i] in ready:
                        self._drain(i, sockets[i])
        except zmq.ZMQError as error:
            self._break(self._endpoint.error(f"ZeroMQ: {error}"))
        except InstrumentError as error:
            self._break(error)
        finally:
            for each in sockets:
                each.close(linger=0)

    def _drain(self, i: int, socket: zmq.SyncSocket) -> None:
        """Take what one socket holds."""
        import zmq

        fresh: list[TimesPs] = []
        words, ended = 0, False
        while words < _MAX_WORDS:
            try:
                frame = socket.recv(zmq.NOBLOCK)
            except zmq.Again:
                break
            self._endpoint.received(frame, self._channels[i])
            fresh.append(self._words(i, frame))
            ended = ended or not frame
            words += len(fresh[-1])
        self._hold(i, fresh, ended)

    def _replayed(self, i: int, frame: bytes) -> None:
        try:
            self._hold(i, [self._words(i, frame)], not frame)
        except InstrumentError as error:
            self._break(error)

    def _words(self, i: int, frame: bytes) -> TimesPs:
        if len(frame) % 8:
            raise self._endpoint.error(
                f"a message of {len(frame)} bytes on the stream of input {i + 1}",
                hint="was the stream started with --with-ref-index?",
            )
        return np.frombuffer(frame, dtype="<i8").astype(np.int64, copy=False)

    def _hold(self, i: int, fresh: list[TimesPs], ended: bool) -> None:
        words = sum(map(len, fresh))
        with self._news:
            self._chunks[i] += fresh
            self._held[i] += words
            self._received[i] += words
            if ended:
                self._ended.add(i)
            self._news.notify_all()

    def _break(self, error: InstrumentError) -> None:
        with self._news:
            self._broken = error
            self._news.notify_all()
