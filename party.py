"""One end of a key exchange over a network: its bench, its tagger, its key store, one process.

:func:`load_party` reads a party file, :class:`PartyLoop` moves clicks, frames and time between the
tagger, the session (a state machine without I/O) and the link. What may end while it runs: the
connection (the session goes on when it comes back), the other process (a new session begins), the
tagger's stream (opened anew, a new session), a session that gives up (a new one, later).
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Literal, Protocol, TypeVar, cast

from .bench import BenchConfig, load_bench, open_bench
from .configs import ConfigErrors, Loc, Report, bundled, find_config, read_config
from .configs.party_file import PartyFile
from .instruments import BellbenchError, Clock, ConfigError, InstrumentError, TagBatch, TwinError
from .live import Progress
from .net import Link, parse_address
from .twins import StepClock

if TYPE_CHECKING:
    from .keystore import KeyStore
    from .net import Conversation
    from .protocols import qkd
    from .protocols.qkd.authentication import PadSource
    from .protocols.qkd.report import BlockReport
    from .protocols.qkd.trust import FirstTrust

__all__ = [
    "PartyConfig",
    "PartyLoop",
    "Recorder",
    "Reports",
    "Summary",
    "check_party",
    "load_party",
    "run_party",
]

_LABELS = ("H", "V", "D", "A")
_STEP_S = 0.1  # bench time between two reads of the tagger
_WAIT_S = 0.1  # wall time that the loop waits for frames or clicks
_SHOWN_S = 0.2  # wall time between two looks at the progress
_QUIET_S = 0.005  # without a message, after which clicks have their turn
_PRESSING = 10  # batches that wait: they have it at once
_TAGS = 1 << 24  # in the batches that may wait
_TRIES = 10  # to open a tagger whose stream was lost
_RESERVE_PADS = 256  # of each direction that the pool is kept filled to
_LEAST_PADS = 64  # of QKD, to go on without those of a first trust
_LONGEST_PAUSE_S = 30.0  # between sessions that come to nothing


# -- the party file


@dataclass(frozen=True)
class PartyConfig:
    """A party file, validated and resolved.

    Attributes:
        path: The file.
        file: What it says.
        bench: This party's bench.
        experiment: The terms, a BBM92 experiment file.
        name: Name of the experiment.
        store: Its key store.
        reports: Folder of its reports.
        identity: File of its identity; None without a first trust.
        peer_identity: File of the peer's public identity.
    """

    path: Path
    file: PartyFile
    bench: BenchConfig
    experiment: Any
    name: str
    store: Path
    reports: Path
    identity: Path | None
    peer_identity: Path | None


def load_party(name: str | Path, *, role: str | None = None) -> PartyConfig:
    """Read and check a party file, its bench and its experiment.

    Args:
        name: Path, or bundled name; what a bundled file names is relative to the working directory.
        role: The role it must have.

    Raises:
        ConfigError: with every mistake of the file.
    """
    from .experiments.bbm92 import BBM92File
    from .experiments.contract import lacks

    path = find_config(name, "parties")
    base = Path.cwd() if path in bundled("parties").values() else path.parent
    report = Report(read_config(path, "party"))
    file = report.validate(PartyFile)
    report.check()
    assert file is not None
    if role is not None and role != file.role:
        report.add(("role",), f"is {file.role}, but --role says {role}")
    if (file.listen is None) == (file.connect is None):
        which: Loc = ("connect",) if file.connect is not None else ()
        report.add(which, "one party has 'listen', the other 'connect'", key=True)
    for key in ("listen", "connect"):
        text = getattr(file, key)
        try:
            if text is not None and not all(parse_address(text)) and key == "connect":
                raise ValueError(f"write host:port of the other party, not {text!r}")
        except ValueError as error:
            report.add((key,), str(error))

    def find(key: str, folder: str) -> Path | None:
        text = getattr(file, key)
        try:
            return find_config(text, folder, beside=base / path.name)
        except ConfigError as error:
            report.add((key,), str(error))
            return None

    others: list[ConfigError] = []
    bench = experiment = None
    bench_path, experiment_path = find("bench", "benches"), find("experiment", "experiments")
    if bench_path is not None:
        try:
            bench = load_bench(bench_path)
        except ConfigErrors as errors:
            others += errors.errors
        except ConfigError as error:
            report.add(("bench",), str(error))
    if experiment_path is not None:
        try:
            terms = Report(read_config(experiment_path, "experiment"))
        except ConfigError as error:
            report.add(("experiment",), str(error))
        else:
            if terms.document.data.get("protocol") != "bbm92":
                report.add(("experiment",), f"{experiment_path} is not of the protocol bbm92")
            else:
                experiment = terms.validate(BBM92File)
                others += terms.errors
                if experiment is not None and experiment.block is None:
                    experiment = experiment.model_copy(update={"block": experiment.duration})
    if bench is not None and experiment is not None:
        for loc, message in lacks(experiment, bench, file.role, labels=_LABELS):
            report.add(loc, message)
    if report.errors or others:
        raise ConfigErrors([*report.errors, *others])
    assert bench is not None
    assert experiment_path is not None
    trust = file.trust
    return PartyConfig(
        path,
        file,
        bench,
        experiment,
        experiment_path.stem,
        base / file.store,
        base / file.reports,
        None if trust is None else base / trust.identity,
        None if trust is None else base / trust.peer,
    )


def check_party(name: str | Path) -> list[ConfigError]:
    """Return every mistake in a party file and what it names; empty where there is none."""
    try:
        load_party(name)
    except ConfigErrors as errors:
        return errors.errors
    except ConfigError as error:
        return [error]
    return []


# -- the tagger


class Tagger(Protocol):
    """What is needed of a tagger, opened anew where its stream is lost."""

    def open(self) -> None: ...
    def close(self) -> None: ...
    def configure(self) -> None: ...
    def start(self) -> None: ...
    def read(self) -> TagBatch: ...
    def stop(self) -> None: ...


class Recorder:
    """Reads a tagger in a thread of its own: bench time passes there, messages do not wait for it.

    In stepped time it also says whether the world waits for this party: while it records, and
    between :meth:`hold` and the next :meth:`rest`. A world that waits for nobody stands still.

    A tagger whose stream is lost is opened anew, for as long as a power cut may last.

    Args:
        tagger: Open; used by this thread alone from now on.
        clock: The bench's.
        news: Called from the thread when there is something to take.
    """

    def __init__(self, tagger: Tagger, clock: Clock, news: Callable[[], None]) -> None:
        self._tagger = tagger
        self._clock = clock
        self._tell = news
        self._news = threading.Condition()  # guards all below
        self._wanted: Literal["rest", "hold", "pause", "record"] = "rest"
        self._recording = 0  # number of the one wanted
        self._batches: deque[TagBatch] = deque()
        self._tags = 0  # in these
        self._released = False
        self._lost: BellbenchError | None = None  # why the stream is, until somebody has taken it
        self._spoilt = 0  # number of the recording that it was lost in: not gone on with
        self._broken = False
        self._failed: BellbenchError | None = None  # why it could not be opened anew
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="bellbench recorder", daemon=True)
        self._thread.start()

    def rest(self) -> None:
        """Stop recording; what was not taken is discarded."""
        self._want("rest")

    def hold(self) -> None:
        """As :meth:`rest`, but a stepped world waits for us; return when it does."""
        self._want("hold")
        with self._news:
            self._news.wait_for(lambda: not self._released or self._broken, 10.0)

    def record(self) -> None:
        """Begin a new recording."""
        self._want("record")

    def pause(self, paused: bool) -> None:
        """Let a stepped world stand still while nobody hears us; elsewhere time goes on."""
        if not isinstance(self._clock, StepClock):
            return
        with self._news:
            if self._wanted == ("record" if paused else "pause"):
                self._wanted = "pause" if paused else "record"
                self._news.notify_all()

    def take(self) -> TagBatch | None:
        """The next batch of this recording, or None where there is none yet.

        Raises:
            BellbenchError: where the stream was lost.
        """
        with self._news:
            if self._batches:
                self._news.notify_all()
                batch = self._batches.popleft()
                self._tags -= len(batch)
                return batch
            error, self._lost = self._lost, None
        if error is not None:
            raise error
        return None

    @property
    def waiting(self) -> int:
        """How many batches there are to take; 1 where the stream was lost."""
        with self._news:
            return len(self._batches) or self._lost is not None

    @property
    def usable(self) -> bool:
        """Whether the tagger is open.

        Raises:
            BellbenchError: where it could not be opened anew.
        """
        with self._news:
            if self._failed is not None:
                raise self._failed
            return not self._broken

    def close(self, timeout_s: float = 2.0) -> None:
        """End the thread; one that waits for a world that stands still ends with its connection."""
        with self._news:
            self._closing = True
            self._news.notify_all()
        self._thread.join(timeout_s)

    def __enter__(self) -> Recorder:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _want(self, what: Literal["rest", "hold", "record"]) -> None:
        with self._news:
            self._wanted = what
            self._recording += what == "record"
            self._batches.clear()
            self._tags = 0
            self._lost = None
            self._news.notify_all()

    # -- the thread

    def _run(self) -> None:
        running = 0  # number of the recording that is on
        tries = 0
        while True:
            with self._news:
                while (task := self._task(running)) == "wait":
                    self._news.wait()
                number = self._recording
            if task == "end":
                return
            try:
                if task == "stop":
                    running = 0
                    self._tagger.stop()
                elif task in ("release", "hold"):
                    self._stand(task)
                elif task == "mend":
                    tries += 1
                    self._mend()
                    tries = 0
                else:
                    if not running:
                        self._tagger.start()
                        running = number
                    self._clock.sleep(_STEP_S)
                    self._add(self._tagger.read(), running)
            except BellbenchError as error:
                running = 0
                with self._news:
                    if not self._broken:
                        self._lost = error
                        self._spoilt = self._recording
                    self._broken = True
                    if isinstance(error, TwinError) or tries >= _TRIES:
                        self._failed = error
                    self._news.notify_all()
                self._tell()

    def _task(self, running: int) -> str:
        wanted = self._wanted
        if self._closing or self._failed is not None:
            return "end"
        if running and (
            wanted in ("rest", "hold") or (wanted == "record" and running != self._recording)
        ):
            return "stop"
        if self._broken:
            return "mend"
        if wanted in ("rest", "pause"):
            return "wait" if self._released else "release"
        if self._released:
            return "hold"
        if self._recording == self._spoilt:
            return "wait"  # its clicks would begin anew
        # a stepped world waits for the session; elsewhere time does not
        full = bool(self._batches) if isinstance(self._clock, StepClock) else self._tags > _TAGS
        return "read" if wanted == "record" and not full else "wait"

    def _stand(self, task: str) -> None:
        if isinstance(self._clock, StepClock):
            if task == "release":
                self._clock.release()
            else:
                self._clock.hold()
        with self._news:
            self._released = task == "release"
            self._news.notify_all()

    def _mend(self) -> None:
        with contextlib.suppress(InstrumentError):
            self._tagger.close()
        with self._news:
            self._released = False
        self._clock.sleep(1.0)
        self._tagger.open()
        self._tagger.configure()
        with self._news:
            self._broken = False
            self._news.notify_all()
        self._tell()

    def _add(self, batch: TagBatch, running: int) -> None:
        with self._news:
            if self._wanted in ("record", "pause") and self._recording == running:
                self._batches.append(batch)
                self._tags += len(batch)
        self._tell()


# -- the loop


class Session(Protocol):
    """What the loop needs of a session; see :class:`bellbench.protocols.qkd.session.Session`."""

    def feed(self, batch: TagBatch) -> None: ...
    def finish(self) -> None: ...
    def receive(self, frame: bytes) -> None: ...
    def send(self) -> list[bytes]: ...
    def tick(self, now_s: float) -> None: ...
    def abort(self, reason: str) -> None: ...

    @property
    def session_id(self) -> str | None: ...

    @property
    def ready(self) -> bool: ...

    @property
    def phase(self) -> str: ...

    @property
    def over(self) -> bool: ...

    @property
    def reason(self) -> str: ...

    def take_reports(self) -> Sequence[Any]: ...


@dataclass
class Summary:
    """What a party has done, for a person and for JSON.

    Attributes:
        blocks: Blocks that came to an end.
        keys: Blocks that gave a key.
        key_bits: Bits of key, the reserve for authentication included.
        sessions: Sessions that were established.
        reason: Why the last one ended, where it did not end well.
        recorded_s: Bench time recorded in them.
    """

    blocks: int = 0
    keys: int = 0
    key_bits: int = 0
    sessions: int = 0
    reason: str = ""
    recorded_s: float = 0.0

    def __str__(self) -> str:
        return f"{self.keys} of {self.blocks} blocks gave {self.key_bits:,} bits of key"


S = TypeVar("S", bound=Session)


class PartyLoop(Generic[S]):
    """Moves clicks, frames and time until the duration is over.

    Args:
        link: To the other party.
        recorder: Of this party's tagger.
        session: Makes a session.
        report: Takes each block's report when it is there.
        ended: Takes each session when it is over.
        retire: Says why a session is to be replaced by a new one; nothing while it is not.
        show: Called with the progress.
        figures: What it shows of a session.
        outage_s: How long a session waits for a broken connection, wall time.
        now: Wall time, s.
    """

    def __init__(
        self,
        link: Link,
        recorder: Recorder,
        session: Callable[[], S],
        *,
        report: Callable[[Any], None],
        ended: Callable[[S], None] = lambda session: None,
        retire: Callable[[S], str] = lambda session: "",
        show: Callable[[Progress], None] = lambda progress: None,
        figures: Callable[[S], dict[str, str]] = lambda session: {},
        outage_s: float = 30.0,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._link = link
        self._recorder = recorder
        self._make = session
        self._report = report
        self._ended = ended
        self._retire = retire
        self._show = show
        self._figures = figures
        self._outage_s = outage_s
        self._now = now
        self._duration_s = 0.0
        self._pause_s = 0.0
        self._told = ("", 0.0)
        self.summary = Summary()

    def run(self, duration_s: float | None = None) -> Summary:
        """Exchange keys until so much bench time was recorded, without end where None.

        Raises:
            BellbenchError: where the tagger cannot be opened any more, the store fails, or
                the link does.
        """
        self._duration_s = duration_s or 0.0
        while not self._due:
            usable = self._recorder.usable
            self._tell("waiting for the other party" if usable else "opening the tagger anew")
            conversation = self._link.conversation(_WAIT_S * 5)
            if conversation is not None and usable:
                self._talk(conversation)
                self._recorder.rest()
        return self.summary

    @property
    def _due(self) -> bool:
        return bool(self._duration_s) and self.summary.recorded_s >= self._duration_s

    @property
    def _nearly(self) -> bool:
        return bool(self._duration_s) and self.summary.recorded_s >= self._duration_s - 1.0

    def _talk(self, conversation: Conversation) -> None:
        """One session, for as long as both parties have it."""
        session = self._make()
        keys = self.summary.keys
        try:
            why = self._exchange(conversation, session)
        except BaseException as error:  # such as Ctrl-C; its report is wanted all the same
            session.abort(str(error) if isinstance(error, BellbenchError) else "stopped")
            with contextlib.suppress(BellbenchError):
                self._take_reports(session)
            with contextlib.suppress(BellbenchError):
                self._ended(session)
            raise
        if why:
            session.abort(why)
        self._take_reports(session)
        self._ended(session)
        self.summary.reason = session.reason
        if not session.reason and self._nearly:
            self.summary.recorded_s = self._duration_s  # the other party was done a moment before
        if self._due or conversation.over:
            return
        if why:
            self._link.begin()
            return
        if self.summary.keys > keys:
            self._pause_s = 0.0
        self._pause_s = min(max(1.0, 2 * self._pause_s), _LONGEST_PAUSE_S)
        self._linger(conversation)

    def _exchange(self, conversation: Conversation, session: S) -> str:
        """Move clicks, frames and time; why the session is to be given up, empty where it ended."""
        out: deque[bytes] = deque()
        heard = recording = finished = False
        connected_s = self._now()
        why = ""
        while not (why or session.over):
            # Messages go first: each of some hundreds in a row waits for the other party.
            waiting = self._recorder.waiting if recording and session.ready and not out else 0
            pressing = waiting > _PRESSING
            frames = conversation.receive(0.0 if pressing else _QUIET_S if waiting else _WAIT_S)
            if frames and not heard:
                heard = True
                self._recorder.hold()  # both taggers are to start at about the same time
            for frame in frames:
                session.receive(frame)
            try:
                batch = self._recorder.take() if waiting and (pressing or not frames) else None
            except InstrumentError as error:
                why = f"the tagger's stream was lost: {error}"
                break
            if batch is not None and not finished:
                session.feed(batch)
                self.summary.recorded_s += (batch.end_ps - batch.begin_ps) * 1e-12
            session.tick(self._now())
            if not out:
                out += session.send()
            while out and conversation.send(out[0]):
                out.popleft()
            self._take_reports(session)
            why = self._retire(session)
            if session.session_id is not None and not recording:
                recording = True
                self.summary.sessions += 1
                self._recorder.record()
            connected = True
            if not frames and conversation.over:
                why = conversation.over
            elif connected := conversation.connected:
                connected_s = self._now()
                self._recorder.pause(False)
            else:
                self._recorder.pause(True)
                if self._now() - connected_s > self._outage_s:
                    why = f"no connection for {self._outage_s:g} s: {self._link.state}"
            if self._due and not finished:
                finished = True
                self._recorder.rest()
                session.finish()
            self._tell(f"{session.phase}{'' if connected else ', no connection'}", session)
        out += session.send()
        while out and conversation.send(out[0]):
            out.popleft()
        return why

    def _linger(self, conversation: Conversation) -> None:
        """Let the other party hear how it ended, then begin anew, unless it does so before."""
        until = self._now() + self._pause_s
        self._recorder.rest()
        while not conversation.over and (left := until - self._now()) > 0:
            self._tell(f"{self.summary.reason}; beginning anew in {left:.0f} s")
            conversation.receive(min(left, 0.5))
        if not conversation.over:
            self._link.begin()

    def _take_reports(self, session: S) -> None:
        for report in session.take_reports():
            self.summary.blocks += 1
            self.summary.keys += not report.reason
            self.summary.key_bits += report.key_bits
            self._report(report)

    def _tell(self, stage: str, session: S | None = None) -> None:
        told, at_s = self._told
        if stage == told and self._now() - at_s < _SHOWN_S:
            return
        self._told = (stage, self._now())
        about = {"link": self._link.state, "blocks with key": f"{self.summary.keys}"}
        if not self._duration_s:
            about["recorded"] = f"{self.summary.recorded_s:,.0f} s"
        about |= {} if session is None else self._figures(session)
        self._show(Progress(stage, self.summary.recorded_s, self._duration_s, figures=about))


# -- one process


class Reports:
    """Where a party's reports go.

    ``blocks.jsonl`` has a line for each block, appended when it ends; ``blocks.txt`` the same for
    people. ``SESSION.json`` and ``SESSION.md`` are the security report of each session; the first
    is the user's alone, since it says what the own detectors counted.

    Args:
        folder: Made if it is not there.

    Raises:
        BellbenchError: where it cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BellbenchError(f"cannot make the folder {folder}: {error.strerror}") from error

    def block(self, report: BlockReport) -> None:
        """Append a block."""
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        line = json.dumps({"at": now, **report.as_dict()}, allow_nan=False)
        self._write("blocks.jsonl", line + "\n", append=True)
        self._write("blocks.txt", f"{now}  {_words(report)}\n", append=True)

    def session(self, report: dict[str, Any]) -> None:
        """Write what a session came to."""
        from .protocols.qkd.report import markdown

        if report["session"] is not None:
            text = json.dumps(report, indent=2, allow_nan=False)
            self._write(f"{report['session']}.json", text + "\n", mode=0o600)
            self._write(f"{report['session']}.md", markdown(report))

    def _write(self, name: str, text: str, *, append: bool = False, mode: int = 0o666) -> None:
        path = self._folder / name
        flags = os.O_WRONLY | os.O_CREAT | (os.O_APPEND if append else os.O_TRUNC)
        try:
            with open(os.open(path, flags, mode), "w", encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            if not append:
                with contextlib.suppress(OSError):
                    path.unlink()  # half of it
            raise BellbenchError(f"cannot write {path}: {error.strerror}") from error


def _words(report: BlockReport) -> str:
    if report.reason:
        return f"{report.block}: no key, {report.reason}"
    errors, n = report.corrected_errors or 0, report.reconciled_bits
    f = "-" if report.efficiency is None else f"{report.efficiency:.3f}"
    return (
        f"{report.block}: {report.key_bits:,} bits of key ({report.reserve_bits:,} for"
        f" authentication) from {report.sifted_bits:,} sifted, {errors / n:.2%} errors,"
        f" f {f} by {report.method}, epsilon {report.epsilons['total']:.1e}"
    )


def run_party(
    config: PartyConfig,
    store: KeyStore,
    *,
    trust: FirstTrust | None = None,
    duration_s: float | None = None,
    show: Callable[[Progress], None] = lambda progress: None,
) -> Summary:
    """Open the bench and exchange keys with the other party's process.

    Args:
        config: What to run.
        store: This party's key store, open.
        trust: What makes a first pool; None where one was carried to both ends.
        duration_s: Bench time to record, s; without end where None.
        show: Called with the progress.

    Raises:
        BellbenchError: where bench, store or link fail.
    """
    from .experiments.bbm92 import OUTCOMES, session_parameters
    from .protocols import qkd
    from .protocols.qkd.trust import FIRST_POOL_PADS

    file = config.file
    if store.role != file.role:
        message = f"is {store.role}'s store, this party is {file.role}"
        raise ConfigError(message, place=str(store.path))
    single = [c for c in config.bench.instruments.values() if not c.is_composite]
    twins = any(c.is_twin or c.is_remote_twin or c.is_replay for c in single)
    if store.sink.rehearsal != twins:
        message = (
            "takes real keys only, and twins make none: bellbench keys create --rehearsal"
            if twins
            else "is for rehearsals, and this party has real instruments: make one for real keys"
        )
        raise ConfigError(message, place=str(store.path))
    reports = Reports(config.reports)
    show(Progress("opening the bench, waiting for its set points"))
    with open_bench(config.bench) as lab:
        party = lab.parties[file.role]
        parameters = session_parameters(config.experiment)
        detectors = qkd.Detectors.of(
            {channel: OUTCOMES[label] for label, channel in party.inputs(_LABELS).items()}
        )

        def begin() -> qkd.Session:
            # A first trust is left behind when the keys alone have filled the pool.
            pads = store.pads(store.role)
            left_behind = 0 if pads is not None and filled(pads) else FIRST_POOL_PADS
            return qkd.Session(
                store.role,
                detectors,
                parameters,
                sink=store.sink,
                pads=pads,
                first_trust=trust,
                names=(store.name, store.peer),
                twins=twins,
                reserve_pads=_RESERVE_PADS + left_behind,
            )

        def retire(session: qkd.Session) -> str:
            # by Bob, who is the last to hear of a key
            if not session.provisional or store.role == "alice":
                return ""
            pads = store.pads(store.role)
            done = pads is not None and filled(pads)
            return "the keys have filled the pool: going on without the first trust" * done

        def filled(pads: PadSource) -> bool:
            total = pads.position[0] + pads.remaining[0]
            return not pads.provisional or total >= pads.provisional + _LEAST_PADS

        with (
            Link(listen=file.listen, connect=file.connect) as link,
            Recorder(cast(Tagger, party.tagger), lab.clock, link.wake) as recorder,
        ):
            loop = PartyLoop(
                link,
                recorder,
                begin,
                report=reports.block,
                ended=lambda session: reports.session(session.report()),
                retire=retire,
                show=show,
                figures=_figures,
                outage_s=file.outage,
            )
            try:
                return loop.run(duration_s)
            except BaseException as error:
                error.add_note(f"{loop.summary}; reports: {config.reports}")
                raise


def _figures(session: qkd.Session) -> dict[str, str]:
    seen = session.progress

    def percent(rate: float | None) -> str:
        return "-" if rate is None else f"{100 * rate:.2f} %"

    lost = session.pairing.clicks.losses
    return {
        **({"tagger lost clicks": f"{lost:,} times"} if lost else {}),
        "coincidences": f"{seen.coincidences:,}",
        "sifted bits": f"{seen.sifted_bits:,}",
        "QBER Z": percent(seen.qber_z),
        "QBER X": percent(seen.qber_x),
        "blocks": f"{seen.blocks} gave a key, {seen.failed_blocks} none, {seen.open_blocks} open",
        "secret key": f"{seen.key_bits:,} bits",
        "pads left": "-" if seen.pads is None else f"{seen.pads[0]:,}, {seen.pads[1]:,}",
    }
