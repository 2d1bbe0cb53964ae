"""BBM92: a secret key between Alice and Bob from the pairs of one source."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from ..bench import BenchConfig
from ..instruments import BellbenchError, TagBatch, Unit
from ..live import Progress
from .contract import Duration, Experiment, ExperimentFile, Mistake, Model, Result, Run, lacks

if TYPE_CHECKING:
    from ..lab import Lab, Party
    from ..protocols import qkd, timing
    from ..protocols.qkd.estimation import Errors

__all__ = [
    "EXPERIMENT",
    "OUTCOMES",
    "BBM92File",
    "Exchange",
    "ExchangeFile",
    "KeyTerms",
    "check",
    "session_parameters",
]

_STEP_S = 0.1
_PADS = 64  # of each direction that both parties begin with, and fill up from their keys
_UNSEEN_S = 1.0  # its light fails: told before the recovery gives the clock up
#: Basis and bit of a click at each port of an analyzer.
OUTCOMES = {"H": ("Z", 0), "V": ("Z", 1), "D": ("X", 0), "A": ("X", 1)}
_LABELS = tuple(OUTCOMES)


class KeyTerms(Model):
    """Terms of the key, fixed before the data; see :class:`bellbench.protocols.qkd.Parameters`."""

    qber_tolerance: Annotated[float, Unit("1"), Field(gt=0, lt=0.5)] = 0.03
    epsilon: Annotated[float, Unit("1"), Field(ge=1e-60, lt=1)] = 1e-10
    leak_efficiency: Annotated[float, Unit("1"), Field(gt=1)] = 1.1
    monitor_fraction: Annotated[float, Unit("1"), Field(ge=0, lt=1)] = 0.02
    expected_sifted_rate: Annotated[float, Unit("Hz"), Field(gt=0, le=1e9)]
    time_grid: Annotated[float, Unit("s"), Field(ge=1e-12)] = 10e-12
    dead_time: Annotated[float, Unit("s"), Field(ge=0, le=1e-3)] = 50e-9


class ExchangeFile(ExperimentFile):
    """What an experiment file says of an exchange."""

    duration: Duration
    """Length of the key exchange, in bench time, after the calibration."""
    calibration: Annotated[float, Unit("s"), Field(ge=0.01, le=1000)] = 1.0
    """Clicks sacrificed to find the delays of the channels."""
    coincidence_window: Annotated[float, Unit("s"), Field(ge=1e-12, le=1e-6)] = 300e-12
    """Full width."""
    block: Duration | None = None
    """Length of the blocks that give a key each; without it the whole exchange is one."""
    clocks: Literal["recovered", "shared"] = "recovered"
    """``recovered``: the taggers share nothing, Bob's clock is found and followed by the
    coincidences alone; ``shared``: both count on one reference, which takes fewer coincidences."""
    key: KeyTerms

    @property
    def scheme_terms(self) -> dict[str, Any]:
        """What the terms say of the protocol, where it is another one than BBM92."""
        return {}


class BBM92File(ExchangeFile):
    """What an experiment file of this protocol says."""

    protocol: Literal["bbm92"]


def session_parameters(file: ExchangeFile) -> qkd.Parameters:
    """Return the terms of the exchange, in the protocol's own words."""
    from ..protocols import qkd

    key = file.key
    # One block holds what the offset of the clocks moves beyond the end, too.
    block = file.block or file.duration + file.calibration
    parameters = qkd.Parameters.plan(
        block_ps=round(block * 1e12),
        clocks=file.clocks,
        window_ps=round(file.coincidence_window * 1e12),
        calibration_ps=round(file.calibration * 1e12),
        tolerance=key.qber_tolerance,
        epsilon=key.epsilon,
        leak_efficiency=key.leak_efficiency,
        monitor_fraction=key.monitor_fraction,
        resolution_ps=round(key.time_grid * 1e12),
        dead_time_ps=round(key.dead_time * 1e12),
        expected_bits=max(1, round(key.expected_sifted_rate * (file.block or file.duration))),
    )
    return dataclasses.replace(parameters, **file.scheme_terms)


def check(file: ExchangeFile, bench: BenchConfig) -> list[Mistake]:
    """Return what keeps the parties from exchanging a key on this bench."""
    mistakes: list[Mistake] = []
    if file.key.time_grid > file.coincidence_window:
        mistakes.append((("key", "time_grid"), "is wider than the coincidence_window"))
    else:
        try:
            session_parameters(file)
        except ValueError as error:
            mistakes.append((("key",), str(error)))
    for party in ("alice", "bob"):
        mistakes += lacks(file, bench, party, labels=_LABELS)
    return mistakes


def _run(file: BBM92File, run: Run) -> Result:
    exchange = Exchange(file, run.name, run.open(), run.show)
    exchange.run()
    return Result(exchange.metrics(), exchange.draw, exchange.files())


@dataclass(frozen=True)
class _Calibration:
    """The sacrificed segment of both parties, public, with the delays found in it."""

    segments: tuple[TagBatch, TagBatch]
    delays: tuple[Mapping[int, int], Mapping[int, int]]

    def car(self, window_ps: int) -> float | None:
        """Coincidence-to-accidental ratio; None where there are no accidentals."""
        from ..protocols import timing

        counter = timing.CoincidenceCounter(
            tuple(self.delays[0]),
            tuple(self.delays[1]),
            window_ps,
            delays_a=self.delays[0],
            delays_b=self.delays[1],
            shifts_ps=[k * 20 * window_ps for k in range(-10, 11) if k],
        )
        counter.add(*self.segments)
        car = timing.car(counter.finish()).value
        return car if math.isfinite(car) else None

    def correlation(self, window_ps: int, bin_ps: int) -> timing.Correlation:
        """Histogram of the delays left between any detector of Alice and any of Bob."""
        from ..protocols import timing

        return timing.delay_histogram(self.segments, self.delays, window_ps, bin_ps)


class Exchange:
    """One BBM92 exchange on an open bench: moves clicks, messages and time.

    Args:
        file: Its terms.
        name: Of the experiment, for titles.
        lab: The bench.
        show: Called with the progress.

    Attributes:
        alice: One party.
        bob: The other.
        settings: Of the analyzers of both, for the clicks read next; None while one is turned.
    """

    def __init__(
        self, file: ExchangeFile, name: str, lab: Lab, show: Callable[[Progress], None]
    ) -> None:
        from ..protocols import qkd
        from ..protocols.qkd.authentication import HEAD_BYTES, PAIR_BYTES, memory_pads
        from ..protocols.qkd.sink import MemorySink

        self._file = file
        self._name = name
        self._lab = lab
        self._show = show
        self._parties: tuple[Party, Party] = (lab.parties["alice"], lab.parties["bob"])
        self.settings: list[int | None] = [0, 0]
        self._calibration: _Calibration | None = None
        self._tags = 0
        self._singles = [dict.fromkeys(_LABELS, 0) for _ in self._parties]
        self._live_s = [0.0, 0.0]
        self._seeded = lab.seeded and lab.all_twins
        # inputs with other labels are not of this protocol
        self._channels = [
            {channel: label for label, channel in party.inputs(_LABELS).items()}
            for party in self._parties
        ]
        parameters = session_parameters(file)
        detectors = [
            qkd.Detectors.of({c: OUTCOMES[label] for c, label in channels.items()})
            for channels in self._channels
        ]
        words = self.randomness("pool").words("pool", 0, (HEAD_BYTES + _PADS * PAIR_BYTES) // 8)
        pads = memory_pads(words.tobytes())
        rehearsal = self._seeded or lab.all_twins
        self._sinks = [MemorySink(rehearsal=rehearsal, append=pool.extend) for pool in pads]
        self.alice = qkd.Session(
            "alice",
            detectors[0],
            parameters,
            sink=self._sinks[0],
            pads=pads[0],
            find_delays=self._find_delays,
            twins=lab.all_twins,
            randomness=self.randomness("alice"),
            reserve_pads=_PADS,
        )
        self.bob = qkd.Session(
            "bob",
            detectors[1],
            parameters,
            sink=self._sinks[1],
            pads=pads[1],
            twins=lab.all_twins,
            randomness=self.randomness("bob"),
        )

    def randomness(self, party: str) -> qkd.Randomness:
        """Where a party's random choices come from."""
        from ..protocols import qkd

        if self._seeded:
            assert self._lab.seed is not None
            return qkd.SeededRandomness(self._lab.seed, party)
        return qkd.SystemRandomness()

    def run(self, pace: Callable[[float], float] = lambda recorded_s: _STEP_S) -> None:
        """Record, exchange and distil; ends early where a party gives up.

        Args:
            pace: Called at the start and after each step of bench time, when all messages about
                the clicks up to then were delivered, with the time recorded by both, s; returns
                the length of the next step, s. Whoever acts while the exchange goes on acts here.
        """
        from ..protocols import qkd

        file = self._file
        end_ps = round((file.calibration + file.duration) * 1e12)
        taggers = [party.tagger for party in self._parties]
        for tagger in taggers:
            tagger.start()
        reached = [0, 0]
        qkd.join(self.alice, self.bob)  # the handshake
        while min(reached) < end_ps and not self.alice.over:
            self._lab.clock.sleep(pace(min(reached) * 1e-12))
            for i, (tagger, protocol) in enumerate(
                zip(taggers, (self.alice, self.bob), strict=True)
            ):
                batch = tagger.read().split(end_ps)[0]
                if reached[i] < end_ps:
                    self._count(i, batch)
                    protocol.pairing.setting = self.settings[i]
                    protocol.feed(batch)
                reached[i] = max(reached[i], batch.end_ps)
            qkd.join(self.alice, self.bob)
            self._report(min(reached) * 1e-12)
        for tagger in taggers:
            tagger.stop()  # after an error the bench does, by their safe state
        self._show(dataclasses.replace(self._progress(file.duration), stage="distilling the key"))
        self.alice.finish()
        self.bob.finish()
        qkd.join(self.alice, self.bob)
        if not (self.alice.over and self.bob.over):
            raise BellbenchError("the parties stopped talking before the exchange was over")

    def _count(self, which: int, batch: TagBatch) -> None:
        self._tags += len(batch)
        self._live_s[which] += batch.live_s
        counts = np.bincount(np.maximum(batch.channels, 0), minlength=1)
        for channel, label in self._channels[which].items():
            if channel < counts.size:
                self._singles[which][label] += int(counts[channel])

    def _singles_hz(self) -> dict[str, dict[str, float]]:
        return {
            party.name: {
                label: count / live if live else 0.0 for label, count in self._singles[i].items()
            }
            for i, (party, live) in enumerate(zip(self._parties, self._live_s, strict=True))
        }

    def _progress(self, elapsed_s: float) -> Progress:
        seen = self.alice.progress
        clock = self.alice.pairing.clock
        return Progress(
            stage="exchanging",
            elapsed_s=elapsed_s,
            duration_s=self._file.duration,
            singles_hz=self._singles_hz(),
            figures={
                "coincidences": f"{seen.coincidences:,}",
                "sifted bits": f"{seen.sifted_bits:,}",
                "QBER Z": _percent(seen.qber_z),
                "QBER X": _percent(seen.qber_x),
                "secret key": f"{seen.key_bits + seen.expected_bits:,} bits",
                **(
                    {}
                    if clock is None
                    else {"Bob's clock": _clock(clock, self._file.calibration + elapsed_s)}
                ),
            },
        )

    def _report(self, recorded_s: float) -> None:
        elapsed = recorded_s - self._file.calibration
        if elapsed <= 0:
            self._show(Progress("recording clicks to find the delays"))
        else:
            self._show(self._progress(elapsed))

    def _find_delays(
        self, alice: TagBatch, bob: TagBatch, known: object = None
    ) -> tuple[Mapping[int, int], Mapping[int, int]]:
        from ..protocols import timing

        self._show(Progress("finding the delays"))
        first, second = (sorted(channels) for channels in self._channels)
        # a recovered clock leaves no offset but those between channels
        search_ps = 50_000_000_000 if self._file.clocks == "shared" else 1_000_000
        found = timing.find_channel_delays(
            alice, bob, channels_a=first, channels_b=second, search_ps=search_ps
        )
        delays = (found.delays_a, found.delays_b)
        self._calibration = _Calibration((alice, bob), delays)
        return delays

    # -- what is left of it

    def files(self) -> dict[str, bytes]:
        """Return the key file of each party, if there is a key, and what both say of it."""
        from ..protocols.qkd.report import markdown

        both = {session.role: session.report() for session in (self.alice, self.bob)}
        found = {
            "report.json": json.dumps(both, indent=2).encode(),
            "report.md": "\n".join(markdown(report) for report in both.values()).encode(),
        }
        blocks = self._common_blocks()
        if not blocks:
            return found
        keys = [b"".join(sink.key(block) for block in blocks) for sink in self._sinks]
        if keys[0] != keys[1]:
            raise BellbenchError(
                "the parties accepted different keys, which verification misses with chance 2^-t:"
                " throw both away; if it happens again it is a fault of Bellbench"
            )
        return found | {
            f"{party.name}.key": key for party, key in zip(self._parties, keys, strict=True)
        }

    def _common_blocks(self) -> list[str]:
        """Blocks whose key both hold: what only Alice accepted, since Bob gave up, is not kept."""
        session = self.alice.session_id
        blocks = [f"{session}/{number}" for number in range(self.alice.blocks_opened)]
        first, second = (sink.committed(blocks) for sink in self._sinks)
        return [block for block in first if block in set(second)]

    def metrics(self) -> dict[str, Any]:
        """Return the figures of the run, fit for JSON."""
        blocks = self._common_blocks()
        key_bits = 8 * sum(len(self._sinks[0].key(block)) for block in blocks)
        matrix = self.alice.pairing.calibration_matrix
        visibility = None if matrix is None else _visibility(matrix)
        duration = self._file.duration
        window = round(self._file.coincidence_window * 1e12)
        sessions = (self.bob, self.alice)
        reason = next((session.reason for session in sessions if session.reason), "")
        told = self.bob.figures()
        if not blocks:
            reason = reason or told["reason"]
        counts = {session.role: session.pairing.clicks for session in (self.alice, self.bob)}
        return {
            "randomness": "seeded" if self._seeded else "system",
            "duration_s": duration,
            "tags": self._tags,
            "singles_hz": self._singles_hz(),
            "coincidences": self.alice.pairing.coincidences,
            "car": None if self._calibration is None else self._calibration.car(window),
            "visibility": None if visibility is None else visibility["mean"],
            "visibility_z": None if visibility is None else visibility["Z"],
            "visibility_x": None if visibility is None else visibility["X"],
            **{name: value for name, value in told.items() if name != "reason"},
            "secret_key_bits": key_bits,
            "secret_key_rate_bps": key_bits / duration,
            "epsilon": told["epsilon"] if blocks else None,
            "double_clicks": {role: clicks.double_clicks for role, clicks in counts.items()},
            "blind_events": {role: clicks.blind_events for role, clicks in counts.items()},
            "losses": {role: clicks.losses for role, clicks in counts.items()},
            "delays_ps": None
            if self._calibration is None
            else {
                party.name: {label: delays[channel] for channel, label in channels.items()}
                for party, channels, delays in zip(
                    self._parties, self._channels, self._calibration.delays, strict=True
                )
            },
            "clock": self.alice.pairing.clock,
            "aborted": bool(reason),
            "reason": reason,
        }

    def draw(self, folder: Path) -> None:
        """Draw what there is to draw into the run folder."""
        from .. import plots

        name, file = self._name, self._file
        if self._calibration is not None:
            window = round(file.coincidence_window * 1e12)
            found = self._calibration.correlation(8 * window, max(1, window // 15))
            plots.plot_delay_histogram(
                folder / "delays.png",
                found.delays_ps,
                found.counts,
                window_ps=window,
                seconds=file.calibration,
                title=f"{name}: coincidences of the calibration, delays corrected",
            )
        if self.alice.pairing.calibration_matrix is not None:
            plots.plot_coincidence_matrix(
                folder / "coincidences.png",
                self.alice.pairing.calibration_matrix,
                labels=_LABELS,
                names=("Alice", "Bob"),
                title=f"{name}: calibration, {file.calibration:g} s",
            )
        if trace := self.alice.pairing.clock_trace:
            plots.plot_clock(
                folder / "clock.png",
                *np.array(trace).T,
                begin_s=self._file.calibration,
                title=f"{name}: Bob's clock, by the coincidences alone",
            )
        history = self.alice.history.entries()
        if history:
            times, errors, bits = _binned(history, file.calibration, file.duration)
            plots.plot_qber(
                folder / "qber.png",
                times,
                errors,
                bits,
                tolerance=file.key.qber_tolerance,
                title=f"{name}: bits revealed to watch and to estimate the error rate",
            )


def _clock(clock: Mapping[str, Any], now_s: float | None = None) -> str:
    if clock["frequency"] is None:
        return "not found yet"
    state = "locked" if clock["locked"] else "not locked"
    if now_s is not None and now_s - clock["at_s"] > _UNSEEN_S:
        state = f"not seen for {now_s - clock['at_s']:.0f} s"
    if clock["losses_of_lock"]:
        state += f", lost for {clock['unlocked_s']:.1f} s in all"
    return f"{1e6 * clock['frequency']:+.4f} ppm, jitter {clock['jitter_ps']:.0f} ps, {state}"


def _percent(rate: float | None) -> str:
    return "-" if rate is None else f"{100 * rate:.2f} %"


def _visibility(matrix: npt.NDArray[Any]) -> dict[str, float | None]:
    """Visibility per basis, (same - different)/(same + different), and their mean."""
    found: dict[str, float | None] = {}
    for i, basis in ((0, "Z"), (2, "X")):
        block = matrix[i : i + 2, i : i + 2]
        total = int(block.sum())
        same = int(np.trace(block))
        found[basis] = (2 * same - total) / total if total else None
    known = [v for v in found.values() if v is not None]
    found["mean"] = sum(known) / len(known) if known else None
    return found


def _binned(
    history: list[tuple[float, Errors]], start_s: float, duration_s: float
) -> tuple[npt.NDArray[Any], dict[str, npt.NDArray[Any]], dict[str, npt.NDArray[Any]]]:
    """Sum the revealed bits into some ten intervals of the exchange."""
    bins = 10
    errors = {basis: np.zeros(bins, np.int64) for basis in ("Z", "X")}
    bits = {basis: np.zeros(bins, np.int64) for basis in ("Z", "X")}
    for middle_s, counted in history:
        k = min(max(int((middle_s - start_s) / duration_s * bins), 0), bins - 1)
        for i, basis in enumerate(("Z", "X")):
            errors[basis][k] += counted.wrong[i]
            bits[basis][k] += counted.compared[i]
    times = (np.arange(bins) + 0.5) * duration_s / bins
    return times, errors, bits


def _rows(m: Mapping[str, Any]) -> list[tuple[str, str]]:
    from rich.markup import escape

    rows = []
    for party, rates in m["singles_hz"].items():
        shown = "  ".join(f"{label} {rate * 1e-3:.1f}" for label, rate in rates.items())
        rows.append((f"singles {party}, kcps", shown))
    car = "-" if m["car"] is None else f"{m['car']:.0f}"
    f_ec = "-" if m["f_ec"] is None else f"{m['f_ec']:.3f}"
    rows += [
        ("coincidences, CAR", f"{m['coincidences']:,}, {car}"),
        (
            "visibility Z, X (calibration)",
            f"{_percent(m['visibility_z'])}, {_percent(m['visibility_x'])}",
        ),
        ("sifted bits", f"{m['sifted_bits']:,}"),
        ("QBER Z, X", f"{_percent(m['qber_z'])}, {_percent(m['qber_x'])}"),
        ("leak, f", f"{m['leak_bits']:,} of {m['leak_budget_bits']:,} bits, {f_ec}"),
    ]
    if clock := m.get("clock"):
        rows.append(("Bob's clock", _clock(clock)))
    if m["aborted"]:
        rows.append(("[bold red]aborted[/]", f"[bold]{escape(m['reason'])}[/]"))
    else:
        key = f"[bold]{m['secret_key_bits']:,} bits[/] ({m['secret_key_rate_bps']:,.0f} bit/s)"
        rows.append(("[bold green]secret key[/]", f"{key}, epsilon {m['epsilon']:.1e}"))
    if m["randomness"] == "seeded":
        rows.append(("note", "seeded run on twins: the key is reproducible, hence no secret"))
    elif m["all_twins"]:
        rows.append(("note", "clicks of twins follow from the world's seed: the key is no secret"))
    return rows


EXPERIMENT = Experiment(BBM92File, check, _run, _rows)
