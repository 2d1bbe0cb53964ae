"""A pair source and the two arms of its link, characterized by the clicks at both ends.

Singles, coincidences, accidentals, CAR, heralding efficiencies, pair rate, error rates,
visibilities, and the key that follows: nothing is exchanged, nothing is tuned.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from ..bench import BenchConfig
from ..instruments import PairSource, ProtocolError, TagBatch, Unit, concatenate
from ..live import Progress
from .contract import Duration, Experiment, ExperimentFile, Mistake, Result, Run, lacks
from .midpoint import told

if TYPE_CHECKING:
    from ..lab import Lab
    from ..protocols import timing
    from ..protocols.characterization import PairLink, Squasher

__all__ = ["EXPERIMENT", "LinkFile"]

_LABELS = ("H", "V", "D", "A")
_ROLES: tuple[Literal["alice", "bob"], ...] = ("alice", "bob")
_STEP_S = 0.1
_LONGEST_STEP_S = 1.0
_FEW_TAGS = 20_000  # fewer per step: longer steps
_WRONG_DELAYS = 20
_GUARD_PS = 1_000_000  # a clock may have moved by that since it was found

Batches = tuple[TagBatch, TagBatch]


class LinkFile(ExperimentFile):
    """What an experiment file of this protocol says."""

    protocol: Literal["link_characterization"]
    duration: Duration
    """Length of the measurement, in bench time, after the calibration."""
    calibration: Annotated[float, Unit("s"), Field(ge=0.01, le=1000)] = 1.0
    """Clicks in which the delays of the channels are found."""
    offset_search: Annotated[float, Unit("s"), Field(ge=1e-6, le=0.1)] = 0.05
    """How far apart the parties' clicks may be; below some ms fainter links are found, too."""
    parties: tuple[str, str] = ("alice", "bob")
    """Which two of the bench's parties."""
    channel_delays: dict[str, dict[Literal["H", "V", "D", "A"], Annotated[float, Unit("s")]]] = {}  # noqa: RUF012 - pydantic copies it
    """Delays of each party's channels among themselves, known from a brighter day: then only the
    offset between the parties is looked for, which takes far fewer coincidences."""
    coincidence_window: Annotated[float, Unit("s"), Field(ge=1e-12, le=1e-6)] | None = None
    """Full width; 2.5 times the width of the coincidence peak unless given."""
    pulse_period: Annotated[float, Unit("s"), Field(ge=1e-12, le=1e-3)] | None = None
    """Of a pulsed source: accidentals are then counted whole periods away, where they are. Without
    it the light is taken as continuous."""
    squash: bool = False
    """Squash: the clicks of a party within a window count once, with a random outcome where they
    differ, as BBM92 does; else all pairs of clicks count. It matters from some percent of pairs
    per pulse or window on. Singles remain clicks."""
    darks: Annotated[float, Unit("s"), Field(gt=0, le=1000)] | None = None
    """Time to count darks for at the end, the bench's pair sources off; not counted by default."""
    leak_efficiency: Annotated[float, Unit("1"), Field(ge=1)] = 1.1
    """Of the reconciliation that the key is planned with."""
    epsilon: Annotated[float, Unit("1"), Field(ge=1e-60, lt=1)] = 1e-10


def _check(file: LinkFile, bench: BenchConfig) -> list[Mistake]:
    mistakes = [m for party in file.parties for m in lacks(file, bench, party, labels=_LABELS)]
    if len(set(file.parties)) < 2:
        mistakes.append((("parties",), f"names {file.parties[0]!r} twice; a link has two ends"))
    if file.channel_delays:
        for party in file.parties:
            given = file.channel_delays.get(party, {})
            if missing := [label for label in _LABELS if label not in given]:
                message = f"lacks {party}'s {', '.join(missing)}: all delays or none"
                mistakes.append((("channel_delays",), message))
    return mistakes


def _run(file: LinkFile, run: Run) -> Result:
    link = _Link(file, run.name, run.open(), run.show)
    link.run()
    return Result(link.metrics(), link.draw)


def wrong_delays(window_ps: int, fwhm_ps: float, period_ps: float | None) -> list[int]:
    """Return where accidentals are counted: beyond the peak, and whole periods of pulses away."""
    # even where the peak is much wider than the window
    step: float = round(max(20 * window_ps, 5 * fwhm_ps))
    if period_ps is not None:
        step = math.ceil(step / period_ps) * period_ps
    half = _WRONG_DELAYS // 2
    return [round(k * step) for k in range(-half, half + 1) if k]


class _Link:
    """One run on an open bench: moves clicks and time."""

    def __init__(
        self, file: LinkFile, name: str, lab: Lab, show: Callable[[Progress], None]
    ) -> None:
        from ..protocols import timing

        self._file = file
        self._name = name
        self._lab = lab
        self._show = show
        self._parties = tuple(lab.parties[name] for name in file.parties)
        self._inputs = [party.inputs(_LABELS) for party in self._parties]
        self._sources = [one for one in lab.instruments.values() if isinstance(one, PairSource)]
        self._reached = [0, 0]
        self._read_ps = [0, 0]
        self._later: list[TagBatch | None] = [None, None]
        self._offset_ps = 0
        self._recovery: timing.ClockRecovery | None = None  # where the clocks run apart
        self._tags = 0
        self._singles = (timing.CountRates(), timing.CountRates())
        # what is found; without a peak it stays None
        self._delays: timing.ChannelDelays | None = None
        self._histogram: timing.Correlation | None = None
        self._window_ps = 0
        self._counts: timing.Coincidences | None = None
        self._squashers: tuple[Squasher, Squasher] | None = None
        self._figures: PairLink | None = None
        self._reason = ""

    def run(self) -> None:
        """Measure; a bench on which no coincidence peak is seen ends it early, with a reason."""
        for party in self._parties:
            party.tagger.start()
        # A recording begins some time after its command.
        for _ in self._record("starting the taggers", _STEP_S):
            pass
        try:
            self._measure()
        except ProtocolError as error:
            self._reason = str(error)
        for party in self._parties:
            party.tagger.stop()  # after another error the bench does, by its safe state

    def _measure(self) -> None:
        from ..protocols import timing
        from ..protocols.calibration.delays import coincidence_window
        from ..protocols.characterization import characterize

        file = self._file
        stage = "recording clicks to find the delays"
        a, b = map(concatenate, zip(*self._record(stage, file.calibration), strict=True))
        self._show(Progress("finding the delays"))
        b, line, found = timing.on_one_clock(
            a,
            b,
            (list(self._inputs[0].values()), list(self._inputs[1].values())),
            search_ps=round(file.offset_search * 1e12),
            known=self._known(),
        )
        self._delays = found
        delays = (found.delays_a, found.delays_b)
        self._offset_ps = round(found.offset.offset_ps)
        if line is not None:
            self._follow(timing.follower(line, delays), line.offset_ps)
        taggers = [party.tagger for party in self._parties]
        if file.coincidence_window is None:
            self._window_ps = coincidence_window(found, taggers)
        else:
            self._window_ps = round(file.coincidence_window * 1e12)
        window = self._window_ps
        self._histogram = timing.delay_histogram((a, b), delays, 8 * window, max(1, window // 15))
        if file.squash:
            first, second = (self._squasher(i, each, window) for i, each in enumerate(delays))
            self._squashers = first, second
            delays = (
                dict.fromkeys(found.delays_a, first.delay_ps),
                dict.fromkeys(found.delays_b, second.delay_ps),
            )
        period = None if file.pulse_period is None else file.pulse_period * 1e12
        counter = timing.CoincidenceCounter(
            list(self._inputs[0].values()),
            list(self._inputs[1].values()),
            window,
            delays_a=delays[0],
            delays_b=delays[1],
            shifts_ps=wrong_delays(window, found.fwhm_ps, period),
        )
        for a, b in self._record("counting", file.duration, self._singles):
            if self._squashers is not None:
                a, b = self._squashers[0].add(a), self._squashers[1].add(b)
            counter.add(a, b)
        if self._squashers is not None:
            counter.add(self._squashers[0].finish(), self._squashers[1].finish())
        self._counts = counter.finish()
        darks = None
        if file.darks is not None:
            darks = (timing.CountRates(), timing.CountRates())
            for source in self._sources:
                source.emission.set(False)
            latest = max(tagger.info.latency_s for tagger in taggers)
            self._follow(None)  # in the dark no clock is seen
            for _ in self._record("source off", latest + _STEP_S):
                pass
            for _ in self._record("counting darks", file.darks, darks):
                pass
        self._figures = characterize(
            self._counts,
            self._singles,
            darks=darks,
            f_ec=file.leak_efficiency,
        )

    def _squasher(self, which: int, delays_ps: Mapping[int, int], window_ps: int) -> Squasher:
        from ..protocols import qkd
        from ..protocols.characterization import Squasher

        seed = self._lab.seed
        return Squasher(
            list(self._inputs[which].values()),
            delays_ps,
            window_ps,
            # no key is made of these outcomes: on twins they are those of the seed
            qkd.SystemRandomness() if seed is None else qkd.SeededRandomness(seed, _ROLES[which]),
        )

    def _known(self) -> tuple[dict[int, int], dict[int, int]] | None:
        given = self._file.channel_delays
        if not given:
            return None
        alice, bob = (
            {inputs[label]: round(delay * 1e12) for label, delay in given[party].items()}
            for party, inputs in zip(self._file.parties, self._inputs, strict=True)
        )
        return alice, bob

    def _record(
        self,
        stage: str,
        seconds: float,
        rates: tuple[timing.CountRates, timing.CountRates] | None = None,
    ) -> Iterator[Batches]:
        """Hand on the clicks of the next ``seconds`` of both, and count them into ``rates``.

        Bob's part of his recording is the one of the same light: later by the offset found.
        """
        begin = max(self._reached[0], self._reached[1] - self._offset_ps)
        ends = [begin + round(seconds * 1e12) + late for late in (0, self._offset_ps)]
        begins = [begin, begin + self._offset_ps]
        step = _STEP_S
        while any(reached < end for reached, end in zip(self._reached, ends, strict=True)):
            self._lab.clock.sleep(step)
            batches = []
            for i, new in enumerate(self._read()):
                later = self._later[i]
                whole = new if later is None else concatenate([later, new])
                batch, self._later[i] = whole.split(ends[i])
                batch = batch.split(begins[i])[1]
                self._reached[i] = max(self._reached[i], batch.end_ps)
                if batch.end_ps < begins[i]:  # all of it came before
                    batch = replace(batch, begin_ps=begins[i], end_ps=begins[i], losses=())
                if rates is not None:
                    rates[i].add(batch)
                batches.append(batch)
            clicks = sum(map(len, batches))
            self._tags += clicks
            step = _STEP_S if clicks > _FEW_TAGS * step / _STEP_S else _LONGEST_STEP_S
            yield batches[0], batches[1]
            self._report(stage, (self._reached[0] - begin) * 1e-12, seconds)

    def _read(self) -> Batches:
        """The next clicks of both; once the clocks are followed, on Alice's."""
        alice, bob = (party.tagger.read() for party in self._parties)
        self._read_ps = [alice.end_ps, bob.end_ps]
        return (alice, bob) if self._recovery is None else self._recovery.add(alice, bob)

    def _follow(self, recovery: timing.ClockRecovery | None, offset_ps: int = 0) -> None:
        """Follow Bob's clock from here on, or leave it."""
        if recovery is None and self._recovery is None:
            return
        alice, bob = self._later
        self._recovery = recovery
        if recovery is None:
            # What is read next follows on what was read last, not on what was handed out.
            self._later = [None, None]
            self._reached = list(self._read_ps)
            self._offset_ps = self._read_ps[1] - self._read_ps[0]
        else:
            assert alice is not None
            assert bob is not None
            self._later = list(recovery.add(alice, bob))
            # Counted is from where both have clicks.
            begin = max(alice.begin_ps, bob.begin_ps - offset_ps + _GUARD_PS)
            self._reached, self._offset_ps = [begin, begin], 0

    def _report(self, stage: str, elapsed_s: float, duration_s: float) -> None:
        self._show(
            Progress(
                stage,
                elapsed_s=max(elapsed_s, 0.0),
                duration_s=duration_s,
                singles_hz=self._singles_hz() if self._singles[0].live_s else {},
            )
        )

    def _singles_hz(self) -> dict[str, dict[str, float]]:
        return {
            party.name: {label: rates.rate_hz(channel) for label, channel in inputs.items()}
            for party, inputs, rates in zip(self._parties, self._inputs, self._singles, strict=True)
        }

    # -- what is left of it

    def metrics(self) -> dict[str, Any]:
        """Return the figures of the run, fit for JSON."""
        from ..protocols.characterization import finite_key_bits

        file, found, figures, counts = self._file, self._delays, self._figures, self._counts
        result: dict[str, Any] = {
            "duration_s": file.duration,
            "tags": self._tags,
            "window_s": self._window_ps * 1e-12 or None,
            "fwhm_s": None if found is None else found.fwhm_ps * 1e-12,
            "delays_ps": None
            if found is None
            else {
                party.name: {label: delays[channel] for label, channel in inputs.items()}
                for party, inputs, delays in zip(
                    self._parties, self._inputs, (found.delays_a, found.delays_b), strict=True
                )
            },
            "lost_tags": sum(rates.lost for rates in self._singles),
            "aborted": bool(self._reason),
            "reason": self._reason,
        }
        if figures is None or counts is None:
            return result
        names = [party.name for party in self._parties]
        return result | {
            "live_s": counts.live_s,
            "coincidences": counts.counts.tolist(),
            "accidentals": counts.accidentals.tolist(),
            "detectors_hz": self._singles_hz(),
            "double_clicks": None
            if self._squashers is None
            else dict(zip(names, (each.double_clicks for each in self._squashers), strict=True)),
            "singles_hz": dict(zip(names, map(told, figures.singles_hz), strict=True)),
            "coincidences_hz": told(figures.coincidences_hz),
            "accidentals_hz": told(figures.accidentals_hz),
            "true_hz": told(figures.true_hz),
            "car": told(figures.car),
            "car_at_least": figures.car_at_least,
            "heralding_efficiency": dict(zip(names, map(told, figures.heralding), strict=True)),
            "pair_rate_hz": told(figures.pair_rate_hz),
            "qber": told(figures.qber["all"]),
            "qber_z": told(figures.qber["Z"]),
            "qber_x": told(figures.qber["X"]),
            "visibility": told(figures.visibility["all"]),
            "visibility_z": told(figures.visibility["Z"]),
            "visibility_x": told(figures.visibility["X"]),
            "sifted_hz": told(figures.sifted_hz),
            "key_rate_bps": told(figures.key_rate_bps),
            "finite_key_bits": told(
                finite_key_bits(figures, f_ec=file.leak_efficiency, epsilon=file.epsilon)
            ),
        }

    def draw(self, folder: Path) -> None:
        """Draw what there is to draw into the run folder."""
        from .. import plots

        if self._histogram is not None:
            plots.plot_delay_histogram(
                folder / "delays.png",
                self._histogram.delays_ps,
                self._histogram.counts,
                window_ps=self._window_ps,
                seconds=self._file.calibration,
                title=f"{self._name}: coincidences of the calibration, delays corrected",
            )
        if self._counts is not None:
            plots.plot_coincidence_matrix(
                folder / "coincidences.png",
                self._counts.counts,
                labels=_LABELS,
                names=(self._parties[0].name.capitalize(), self._parties[1].name.capitalize()),
                title=f"{self._name}: coincidences in {self._file.duration:g} s",
            )


def _rows(m: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    from rich.markup import escape

    from ..protocols.estimates import Estimate

    if m["aborted"]:
        yield "[bold red]aborted[/]", f"[bold]{escape(m['reason'])}[/]"
        return

    def shown(name: str, scale: float = 1.0, unit: str = "") -> str:
        found: Any = m
        for part in name.split("."):
            found = found[part]
        if found is None:
            return "-"
        return f"{Estimate(found['value'] * scale, found['sigma'] * scale)}{unit}"

    for party in m["singles_hz"]:
        rates = "  ".join(f"{k} {v * 1e-3:.4g}" for k, v in m["detectors_hz"][party].items())
        yield f"singles {party}, kcps", f"{shown(f'singles_hz.{party}', 1e-3)}  ({rates})"
    window = f"{m['window_s'] * 1e12:.0f} ps, peak {m['fwhm_s'] * 1e12:.0f} ps FWHM"
    yield "window", window
    if m["double_clicks"] is not None:
        both = ", ".join(f"{n:,}" for n in m["double_clicks"].values())
        yield "double clicks, squashed", both
    car = shown("car") if m["car"] is not None else f"above {m['car_at_least']:.3g} (95 %)"
    yield "coincidences, CAR", f"{shown('coincidences_hz', 1, ' /s')}, {car}"
    both = ", ".join(shown(f"heralding_efficiency.{p}", 100, " %") for p in m["singles_hz"])
    yield "heralding efficiency", both
    yield "pair rate", shown("pair_rate_hz", 1e-6, " MHz")
    for word in ("visibility", "qber"):
        name = word if word != "qber" else "QBER"
        yield f"{name} Z, X", ", ".join(shown(f"{word}_{b}", 100, " %") for b in "zx")
    yield "sifted", shown("sifted_hz", 1, " /s")
    yield "[bold green]key rate[/]", f"[bold]{shown('key_rate_bps')} bit/s[/] for endless keys"
    yield "one block", f"{shown('finite_key_bits')} bits, had the tolerance been the QBER seen"


EXPERIMENT = Experiment(LinkFile, _check, _run, _rows)
