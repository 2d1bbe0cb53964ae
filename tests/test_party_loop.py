"""A party's loop without photons: what moves clicks and frames, and what happens when they stop."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bellbench.instruments import ConfigError, InstrumentError, TagBatch
from bellbench.net import Link
from bellbench.party import PartyLoop, Recorder, check_party

PATIENCE_S = 20.0


class Time:
    """Bench time that passes when somebody sleeps, fifty times as fast as the wall's."""

    def __init__(self) -> None:
        self._now_s = 0.0
        self._lock = threading.Lock()
        self._never = threading.Event()

    def now(self) -> float:
        with self._lock:
            return self._now_s

    def sleep(self, seconds: float) -> None:
        self._never.wait(seconds / 50)
        with self._lock:
            self._now_s += seconds


class Tagger:
    """One click a read; its stream is lost where told so."""

    def __init__(self, clock: Time) -> None:
        self._clock = clock
        self._begin_ps = 0
        self._start_s = 0.0
        self.log: list[str] = []
        self.lost = False  # now
        self.refusals = 0  # of the next openings

    def open(self) -> None:
        self.log.append("open")
        if self.refusals:
            self.refusals -= 1
            raise InstrumentError("no power")
        self.lost = False

    def close(self) -> None:
        self.log.append("close")

    def configure(self) -> None:
        self.log.append("configure")

    def start(self) -> None:
        self.log.append("start")
        self._begin_ps, self._start_s = 0, self._clock.now()

    def stop(self) -> None:
        self.log.append("stop")

    def read(self) -> TagBatch:
        if self.lost:
            raise InstrumentError("the stream is gone")
        begin, end = self._begin_ps, round((self._clock.now() - self._start_s) * 1e12)
        self._begin_ps = end
        return TagBatch(np.array([begin]), np.array([1], np.int16), begin, end)


class Talk:
    """A session that greets, counts clicks, and says them at the end."""

    def __init__(self, log: list[str]) -> None:
        self.log = log
        self.phase = "greeting"
        self.session_id: str | None = None
        self.ready = True
        self.provisional = False
        self.over = False
        self.reason = ""
        self.end_ps = 0
        self.finished = False
        self.abort_at_ps: int | None = None
        self.stopped = False
        self._out = [b"hello"]

    def feed(self, batch: TagBatch) -> None:
        if self.stopped:
            raise KeyboardInterrupt
        assert self.session_id is not None
        assert batch.begin_ps == self.end_ps
        self.end_ps = batch.end_ps
        self._out.append(b"tick")
        if self.abort_at_ps is not None and self.end_ps >= self.abort_at_ps:
            self._out.append(b"abort")
            self.over, self.reason = True, "enough"

    def finish(self) -> None:
        self.finished = True
        self._out.append(b"bye")

    def receive(self, frame: bytes) -> None:
        if frame == b"hello":
            self.session_id, self.phase = "1", "talking"
            self.log.append("established")
        if frame == b"abort":
            self.over, self.reason = True, "the other party has enough"
        if frame == b"bye" and not self.over:
            if not self.finished:
                self._out.append(b"bye")
            self.over = True
            self.log.append("over")

    def send(self) -> list[bytes]:
        out, self._out = self._out, []
        return out

    def tick(self, now_s: float) -> None: ...

    def abort(self, reason: str) -> None:
        self.over, self.reason = True, reason

    def take_reports(self) -> list[Any]:
        return []


class End:
    """A party with its link, recorder and loop, run in a thread."""

    def __init__(self, **where: str) -> None:
        self.clock = Time()
        self.tagger = Tagger(self.clock)
        self.link = Link(**where)  # type: ignore[arg-type]
        self.recorder = Recorder(self.tagger, self.clock, self.link.wake)
        self.log: list[str] = []
        self.sessions: list[Talk] = []
        self.ended: list[Talk] = []
        self.loop = PartyLoop(
            self.link,
            self.recorder,
            self._session,
            report=self.log.append,
            ended=self.ended.append,
        )
        self.error: BaseException | None = None
        self._thread: threading.Thread | None = None

    def _session(self) -> Talk:
        self.sessions.append(Talk(self.log))
        return self.sessions[-1]

    def run(self, duration_s: float | None) -> None:
        def run() -> None:
            try:
                self.loop.run(duration_s)
            except BaseException as error:  # noqa: BLE001 - looked at by the test
                self.error = error

        self._thread = threading.Thread(target=run, daemon=True)
        self._thread.start()

    def join(self) -> None:
        assert self._thread is not None
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()
        if self.error is not None:
            raise self.error

    def close(self) -> None:
        self.recorder.close()
        self.link.close()


@contextlib.contextmanager
def ends() -> Iterator[tuple[End, End]]:
    alice = End(listen="127.0.0.1:0")
    bob = End(connect="{}:{}".format(*alice.link.address))
    try:
        yield alice, bob
    finally:
        for end in (alice, bob):
            end.close()


def until(what: Callable[[], object], *links: Link) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not what():
        assert time.monotonic() < deadline, [link.state for link in links]
        with links[0]._news:
            links[0]._news.wait(0.02)


def test_two_parties_talk_for_the_duration() -> None:
    with ends() as (alice, bob):
        for end in (alice, bob):
            end.run(5.0)
        for end in (alice, bob):
            end.join()
            assert end.log == ["established", "over"]
            assert end.tagger.log[:1] == ["start"]
            assert 4.0e12 <= end.sessions[0].end_ps < 6.0e12
            assert end.loop.summary.sessions == 1
            assert end.loop.summary.reason == ""


def test_a_lost_stream_is_opened_anew_in_a_new_session() -> None:
    with ends() as (alice, bob):
        for end in (alice, bob):
            end.run(None)
        until(lambda: alice.sessions and alice.sessions[0].end_ps > 10**12, alice.link)
        alice.tagger.refusals = 2
        alice.tagger.lost = True
        until(lambda: len(alice.sessions) > 1 and alice.sessions[-1].end_ps > 10**12, alice.link)
        assert "stream is gone" in alice.loop.summary.reason
        assert alice.tagger.log == ["start", *["close", "open"] * 3, "configure", "start"]
        until(lambda: bob.sessions[-1].end_ps > 10**12, alice.link)
        assert "begins anew" in bob.loop.summary.reason
        assert bob.tagger.log[:3] == ["start", "stop", "start"]


def test_a_loss_is_heard_of_before_the_clicks_after_it() -> None:
    clock, news = Time(), threading.Event()
    tagger = Tagger(clock)
    with Recorder(tagger, clock, news.set) as recorder:
        recorder.record()
        assert news.wait(PATIENCE_S)
        tagger.lost = True
        while True:
            news.clear()
            if "configure" in tagger.log and recorder.usable:
                break
            assert news.wait(PATIENCE_S)
        for _ in range(3):  # it might read
            clock.sleep(0.1)
        with pytest.raises(InstrumentError, match="stream is gone"):
            list(iter(recorder.take, None))
        assert tagger.log.count("start") == 1


def test_a_tagger_that_never_comes_back_is_an_error() -> None:
    with ends() as (alice, bob):
        for end in (alice, bob):
            end.run(None)
        until(lambda: alice.sessions and alice.sessions[0].end_ps > 10**12, alice.link)
        alice.tagger.refusals = 100
        alice.tagger.lost = True
        with pytest.raises(InstrumentError, match="no power"):
            alice.join()


def test_a_session_that_gives_up_is_followed_by_another() -> None:
    with ends() as (alice, bob):
        for end in (alice, bob):
            end.run(None)
        until(lambda: alice.sessions and alice.sessions[0].end_ps > 10**12, alice.link)
        alice.sessions[0].abort_at_ps = 0
        until(lambda: bob.loop.summary.reason, alice.link)
        assert alice.loop.summary.reason == "enough"
        assert bob.loop.summary.reason == "the other party has enough"
        until(lambda: bob.sessions[-1].end_ps > 10**12 and len(bob.sessions) > 1, alice.link)
        until(lambda: alice.sessions[-1].end_ps > 10**12, alice.link)


def test_a_session_that_is_stopped_leaves_its_report() -> None:
    with ends() as (alice, bob):
        for end in (alice, bob):
            end.run(None)
        until(lambda: alice.sessions and alice.sessions[0].end_ps > 10**12, alice.link)
        alice.sessions[0].stopped = True
        with pytest.raises(KeyboardInterrupt):
            alice.join()
        assert [session.reason for session in alice.ended] == ["stopped"]


def test_a_party_that_leaves_is_waited_for() -> None:
    with ends() as (alice, bob):
        alice.run(None)
        bob.run(2.0)
        bob.join()
        bob.close()
        again = End(connect="{}:{}".format(*alice.link.address))
        again.run(2.0)
        again.join()
        again.close()
        assert len(alice.sessions) == 2
        assert alice.log == ["established", "over"] * 2


# -- the party file

GOOD = {
    "role": "alice",
    "bench": "metro_at_alice",
    "experiment": "bbm92_metro",
    "listen": "127.0.0.1:5017",
    "store": "alice.store",
}


def write(folder: Path, **changes: str | None) -> Path:
    entries = {"bellbench": "party/1", **GOOD, **changes}
    path = folder / "party.yaml"
    path.write_text("".join(f"{k}: {v}\n" for k, v in entries.items() if v is not None))
    return path


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"role": "alcie"}, "party.yaml:2:7: role: 'alcie' does not fit here; did you mean 'ali"),
        ({"conect": "a:1"}, "conect: unknown key; did you mean 'connect'?"),
        ({"connect": "lab:5017"}, "connect: one party has 'listen', the other 'connect'"),
        ({"listen": None}, "one party has 'listen', the other 'connect'"),
        ({"listen": "lab"}, "listen: write host:port, such as 192.168.1.7:5017, not 'lab'"),
        (
            {"listen": None, "connect": ":5017"},
            "connect: write host:port of the other party, not ':5017'",
        ),
        ({"bench": "metro_at_alcie"}, "did you mean 'metro_at_alice'?"),
        ({"bench": "metro_at_bob"}, "bench: bbm92 needs a party 'alice'"),
        ({"experiment": "link_metro"}, "is not of the protocol bbm92"),
        ({"outage": "10"}, "outage"),
        ({"store": None}, "key 'store' is missing"),
    ],
)
def test_mistakes_are_told_with_their_place(
    tmp_path: Path, changes: dict[str, str | None], said: str
) -> None:
    errors = check_party(write(tmp_path, **changes))
    assert any(said in str(error) for error in errors), errors


def test_a_good_party_file_has_no_mistakes(tmp_path: Path) -> None:
    assert check_party(write(tmp_path)) == []
    assert check_party("metro_alice") == check_party("metro_bob") == []


# -- the command line


def test_an_identity_is_two_files_and_a_fingerprint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bellbench.cli import app
    from bellbench.protocols.qkd.trust import Identity, PublicIdentity
    from typer.testing import CliRunner

    monkeypatch.setenv("BELLBENCH_PASSPHRASE", "secret")
    monkeypatch.setattr("bellbench.party_cli.COST", 4)
    file = tmp_path / "alice.id"
    result = CliRunner().invoke(app, ["identity", str(file)])
    assert result.exit_code == 0
    own, public = Identity.load(file, "secret"), PublicIdentity.load(tmp_path / "alice.id.pub")
    assert own.public.fingerprint == public.fingerprint
    assert public.fingerprint in result.output
    again = CliRunner().invoke(app, ["identity", str(file)])
    assert again.exit_code != 0
    assert "exists already" in str(again.exception)


def test_a_party_with_the_store_of_the_other_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bellbench.keystore import KeyStore
    from bellbench.party import load_party, run_party

    with (
        KeyStore.create(
            tmp_path / "alice.store", "x", role="bob", name="B", peer="A", rehearsal=True, cost=4
        ) as store,
        pytest.raises(ConfigError, match="is bob's store, this party is alice"),
    ):
        run_party(load_party(write(tmp_path)), store)
    with (
        KeyStore.create(
            tmp_path / "real.store", "x", role="alice", name="A", peer="B", cost=4
        ) as store,
        pytest.raises(ConfigError, match=r"real\.store: takes real keys only"),
    ):
        run_party(load_party(write(tmp_path)), store)
