"""BB84 with decoy states: from weak coherent pulses to a key of finite length."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from ..bench import BenchConfig
from ..configs import nearest
from ..instruments import BellbenchError, TagBatch, Unit, WeakCoherentSource, concatenate
from ..live import Progress
from .bbm92 import OUTCOMES
from .contract import Duration, Experiment, ExperimentFile, Mistake, Model, Result, Run, lacks

if TYPE_CHECKING:
    from ..lab import Lab
    from ..protocols import qkd
    from ..protocols.qkd import bb84
    from ..protocols.qkd.slots import Pulses

__all__ = ["EXPERIMENT", "DecoyExchange", "DecoyFile", "DecoyKey"]

_STEP_S = 0.01
_DARK_S = 0.02  # of recording before the calibration shot
_LATE_S = 0.02  # that a pattern may begin after it was handed over
_PATIENCE_S = 0.2
_PADS = 32
_LABELS = tuple(OUTCOMES)  # of states and inputs, in the order Z0, Z1, X0, X1
_BASES = ("Z", "X")

_Share = Annotated[float, Unit("1"), Field(gt=0, lt=1)]


class DecoyKey(Model):
    """Terms of the key, fixed before the data; see `bellbench.protocols.qkd.bb84.Bb84Terms`."""

    qber_tolerance: Annotated[float, Unit("1"), Field(gt=0, lt=0.5)] = 0.05
    """No key where the test basis shows more errors."""
    secrecy: Annotated[float, Unit("1"), Field(ge=1e-60, lt=1)] = 1e-9
    correctness: Annotated[float, Unit("1"), Field(ge=1e-37, lt=1)] = 1e-12
    leak_efficiency: Annotated[float, Unit("1"), Field(gt=1)] = 1.15
    """f at which the leak of reconciliation is reserved, and charged."""
    bound: Literal["variable", "lim", "rusca"] | None = None
    """``variable`` (Tupkary et al., with two decoys the default) is proved for lengths that follow
    from the counts; ``lim`` (two decoys) and ``rusca`` (one, the default there) are not."""
    dead_time: Annotated[float, Unit("s"), Field(ge=0, le=1e-3)] = 50e-9
    """Longer than a detector is blind; slots this soon after a click count as not detected."""


class DecoyFile(ExperimentFile):
    """What an experiment file of this protocol says."""

    protocol: Literal["bb84_decoy"]
    duration: Duration
    """Of all shots together, in bench time, rounded up to whole ones: one block."""
    source: str = "transmitter"
    """Alice's weak coherent source, by its name on the bench."""
    pulse_rate: Annotated[float, Unit("Hz"), Field(gt=0, le=1e10)] = 12.5e6
    shot_pulses: Annotated[int, Field(ge=1000, le=1 << 24)] = 600_000
    """Pulses of a shot, its preamble included."""
    preamble: Annotated[int, Field(ge=64, le=1 << 20)] = 8192
    """Public pulses at the beginning of a shot, by which Bob finds it."""
    calibration_pulses: Annotated[int, Field(ge=1000, le=1 << 24)] = 100_000
    """Public pulses played first, in which Bob finds the delays of his detectors."""
    gate: Annotated[float, Unit("s"), Field(gt=0, le=1e-3)] = 1e-9
    """Full width round a slot's centre in which clicks count."""
    intensities: Annotated[tuple[str, ...], Field(min_length=2, max_length=3)]
    """Names of the source's intensities, from the strongest to the weakest: the signal and one or
    two decoys."""
    probabilities: Annotated[tuple[_Share, ...], Field(min_length=2, max_length=3)]
    """Of each intensity."""
    z_fraction: _Share
    """Probability that Alice prepares in Z, the basis of the key."""
    key: DecoyKey = DecoyKey()


def _shot_s(file: DecoyFile) -> float:
    return file.shot_pulses / file.pulse_rate


def _terms(file: DecoyFile, photons: Mapping[str, float]) -> bb84.Bb84Terms:
    """The terms, in the protocol's own words.

    Raises:
        ValueError: where they do not go together.
    """
    from ..protocols.qkd import bb84

    key = file.key
    if file.shot_pulses <= file.preamble:
        raise ValueError("a shot holds no pulse behind its preamble")
    return bb84.Bb84Terms(
        intensities=tuple(photons[name] for name in file.intensities),
        probabilities=file.probabilities,
        z_fraction=file.z_fraction,
        shots=max(1, math.ceil(file.duration / _shot_s(file) - 1e-9)),
        slots=file.shot_pulses - file.preamble,
        preamble=file.preamble,
        period_ps=round(1e12 / file.pulse_rate),
        gate_ps=round(file.gate * 1e12),
        dead_time_ps=round(key.dead_time * 1e12),
        eps_sec=key.secrecy,
        eps_cor=key.correctness,
        total_epsilon=min(0.5, 1e4 * (key.secrecy + key.correctness)),
        tolerance=key.qber_tolerance,
        leak_efficiency=key.leak_efficiency,
        bound=key.bound or ("rusca" if len(file.intensities) == 2 else "variable"),
        patience_ps=round(_PATIENCE_S * 1e12),
    )


def _check(file: DecoyFile, bench: BenchConfig) -> list[Mistake]:
    mistakes = lacks(file, bench, "bob", labels=_LABELS)
    config = bench.instruments.get(file.source)
    if config is None:
        near = nearest(file.source, bench.instruments)
        return [*mistakes, (("source",), f"{bench.path} has no instrument {file.source!r}{near}")]
    levels = getattr(config.settings, "intensities", None)
    states = getattr(config.settings, "states", None)
    if config.driver != "weak_coherent_source" or levels is None or states is None:
        message = f"{file.source!r} is a {config.driver}, no weak coherent source"
        return [*mistakes, (("source",), message)]
    if missing := [one for one in file.intensities if one not in levels]:
        near = nearest(missing[0], levels)
        message = f"{file.source} has no {', '.join(missing)}{near}"
        return [*mistakes, (("intensities",), message)]
    if lost := [one for one in _LABELS if one not in states]:
        mistakes.append((("source",), f"{file.source} cannot make the states {', '.join(lost)}"))
    try:
        _terms(file, {one: levels[one].photons for one in file.intensities})
    except ValueError as error:
        mistakes.append(((), str(error)))
    return mistakes


def _run(file: DecoyFile, run: Run) -> Result:
    exchange = DecoyExchange(file, run.name, run.open(), run.show)
    exchange.run()
    return Result(exchange.metrics(), exchange.draw, exchange.files())


class DecoyExchange:
    """One exchange on an open bench: plays shots, moves clicks, messages and time.

    Args:
        file: Its terms.
        name: Of the experiment, for titles.
        lab: The bench.
        show: Called with the progress.

    Attributes:
        alice: Session of one party.
        bob: Of the other.
        sender: Alice's sifting party.
        receiver: Bob's.
    """

    def __init__(
        self, file: DecoyFile, name: str, lab: Lab, show: Callable[[Progress], None]
    ) -> None:
        from ..protocols import qkd
        from ..protocols.qkd import bb84
        from ..protocols.qkd.authentication import HEAD_BYTES, PAIR_BYTES, memory_pads
        from ..protocols.qkd.sink import MemorySink

        self._file = file
        self._name = name
        self._lab = lab
        self._show = show
        self._seeded = lab.seeded and lab.all_twins
        source = lab.instruments[file.source]
        assert isinstance(source, WeakCoherentSource)  # the check saw its driver
        self._source = source
        party = lab.parties["bob"]
        self._tagger = party.tagger
        self._channels = party.inputs(_LABELS)
        self.terms = _terms(file, source.info.intensities)
        self._tags = 0
        words = self._randomness("pool").words("pool", 0, (HEAD_BYTES + _PADS * PAIR_BYTES) // 8)
        pads = memory_pads(words.tobytes())
        rehearsal = self._seeded or lab.all_twins
        self._sinks = [MemorySink(rehearsal=rehearsal, append=pool.extend) for pool in pads]
        detectors = qkd.Detectors.of({c: OUTCOMES[label] for label, c in self._channels.items()})

        def sender(randomness: qkd.Randomness, history: Any) -> bb84.Bb84Alice:
            self.sender = bb84.Bb84Alice(self.terms, randomness, history)
            return self.sender

        def receiver(randomness: qkd.Randomness, history: Any) -> bb84.Bb84Bob:
            self.receiver = bb84.Bb84Bob(self.terms, randomness, history, detectors)
            return self.receiver

        self.alice = qkd.Session(
            "alice",
            None,
            self.terms,
            sink=self._sinks[0],
            pads=pads[0],
            sifting=sender,
            twins=lab.all_twins,
            randomness=self._randomness("alice"),
            reserve_pads=_PADS,
        )
        self.bob = qkd.Session(
            "bob",
            None,
            self.terms,
            sink=self._sinks[1],
            pads=pads[1],
            sifting=receiver,
            twins=lab.all_twins,
            randomness=self._randomness("bob"),
        )

    def _randomness(self, party: str) -> qkd.Randomness:
        from ..protocols import qkd

        if self._seeded:
            assert self._lab.seed is not None
            return qkd.SeededRandomness(self._lab.seed, party)
        return qkd.SystemRandomness()

    # -- the exchange

    def run(self) -> None:
        """Calibrate, play, sift and distil; ends early where a party gives up.

        Raises:
            BellbenchError: where the calibration fails, or the tagger tells nothing.
        """
        from ..protocols import qkd

        qkd.join(self.alice, self.bob)  # the handshake
        self._calibrate()
        for shot in range(self.terms.shots):
            if self.alice.over or self.bob.over:
                break
            self._play(self.sender.prepare())
            self.bob.feed(self._record(_shot_s(self._file) + _LATE_S))
            self.sender.sent()
            self.alice.advance()
            qkd.join(self.alice, self.bob)
            for _ in range(math.ceil(2 * _PATIENCE_S / _STEP_S)):
                if not self.sender.waiting or self.bob.over:
                    break
                self.bob.feed(self._record(_STEP_S))
                qkd.join(self.alice, self.bob)
            self._tell(shot + 1)
        self._tagger.stop()
        self._source.stop()
        self.alice.finish()
        self.bob.finish()
        qkd.join(self.alice, self.bob)
        if not (self.alice.over and self.bob.over):
            raise BellbenchError("the parties stopped talking before the exchange was over")

    def _calibrate(self) -> None:
        from ..protocols.qkd import bb84

        self._show(Progress("playing public pulses to find the delays"))
        count = self._file.calibration_pulses
        self._tagger.start()
        self._record(_DARK_S)
        self._play(bb84.calibration_pulses(self.terms, count))
        batches = [self._record(count / self._file.pulse_rate + _LATE_S)]
        for _ in range(round(_PATIENCE_S / _STEP_S)):  # the tagger tells clicks somewhat later
            batches.append(self._record(_STEP_S))
        self.receiver.calibrate(concatenate(batches), count)

    def _play(self, pulses: Pulses) -> None:
        source = self._source
        names = list(source.info.intensities)
        intensity = np.array([names.index(one) for one in self._file.intensities])
        state = np.array([source.info.states.index(one) for one in _LABELS])
        source.play(
            intensity[pulses.intensities], state[pulses.states], self._file.pulse_rate, runs=1
        )

    def _record(self, seconds: float) -> TagBatch:
        """Let time pass; what the tagger tells in it."""
        self._lab.clock.sleep(seconds)
        batch = self._tagger.read()
        self._tags += len(batch)
        return batch

    def _tell(self, shots: int) -> None:
        seen = self.alice.progress
        figures = {"clicks": f"{self._tags:,}"}
        if seen.sifted_bits:  # nothing is told of a block before its last shot
            figures |= {
                "sifted bits": f"{seen.sifted_bits:,}",
                "QBER X": _percent(seen.qber_x),
                "secret key": f"{seen.key_bits:,} bits",
            }
        self._show(Progress(stage=f"shot {shots} of {self.terms.shots}", figures=figures))

    # -- what is left of it

    def _common_blocks(self) -> list[str]:
        session = self.alice.session_id
        blocks = [f"{session}/{number}" for number in range(self.alice.blocks_opened)]
        first, second = (sink.committed(blocks) for sink in self._sinks)
        return [block for block in first if block in set(second)]

    def files(self) -> dict[str, bytes]:
        """Return the key file of each party, if there is a key, and what both say of it."""
        from ..protocols.qkd.report import markdown

        both = {session.role: session.report() for session in (self.alice, self.bob)}
        found = {
            "report.json": json.dumps(both, indent=2).encode(),
            "report.md": "\n".join(markdown(report) for report in both.values()).encode(),
        }
        keys = [
            b"".join(sink.key(block) for block in self._common_blocks()) for sink in self._sinks
        ]
        if keys[0] != keys[1]:
            raise BellbenchError(
                "the parties accepted different keys, which verification misses with chance 2^-t:"
                " throw both away; if it happens again it is a fault of Bellbench"
            )
        if keys[0]:
            found |= {f"{name}.key": key for name, key in zip(("alice", "bob"), keys, strict=True)}
        return found

    def metrics(self) -> dict[str, Any]:
        """Return the figures of the run, fit for JSON."""
        names, tally = self._file.intensities, self.sender.tally
        sent, detected = tally.sent, tally.detected
        gains = detected.sum(axis=(1, 2)) / np.maximum(sent.sum(axis=1), 1)
        counts, bound = self.sender.blocks.get(0, (None, None))
        blocks = self._common_blocks()
        key_bits = 8 * sum(len(self._sinks[0].key(block)) for block in blocks)
        told = self.bob.figures()
        reason = self.bob.reason or self.alice.reason
        if not blocks:
            reason = reason or told["reason"]
        duration = self.terms.shots * _shot_s(self._file)
        calibration = self.receiver.calibration
        return {
            "randomness": "seeded" if self._seeded else "system",
            "duration_s": duration,
            "shots": self.terms.shots,
            "shots_lost": tally.lost_shots,
            "pulses": int(sent.sum()),
            "tags": self._tags,
            "photons": dict(zip(names, self.terms.intensities, strict=True)),
            "gains": dict(zip(names, gains.tolist(), strict=True)),
            "errors": None
            if counts is None
            else {
                name: wrong / test if test else None
                for name, wrong, test in zip(names, counts.wrong, counts.test, strict=True)
            },
            # of pulses sent in a basis, how many are detected in it, and in the other one
            "basis_gains": {
                f"{a} in {b}": _ratio(int(detected[:, i, j].sum()), int(sent[:, i].sum()))
                for i, a in enumerate(_BASES)
                for j, b in enumerate(_BASES)
            },
            "counts": None if counts is None else asdict(counts),
            "single_photons_key": None if bound is None else bound.single,
            "vacuum_key": None if bound is None else bound.vacuum,
            "single_photons_test": None if bound is None else bound.test_single,
            "phase_error": None if bound is None else bound.phase_error,
            "bound": self.terms.bound,
            **{
                name: told[name]
                for name in (
                    "sifted_bits",
                    "qber_x",
                    "qber_reconciled",
                    "leak_bits",
                    "leak_budget_bits",
                    "f_ec",
                    "verify_bits",
                    "reserve_bits",
                    "disclosed_bits",
                    "traffic_per_sifted_bit",
                    "authentication",
                )
            },
            "secret_key_bits": key_bits,
            "secret_key_rate_bps": key_bits / duration,
            "epsilon": told["epsilon"] if blocks else None,
            "double_clicks": self.receiver.double_clicks,
            "blind_slots": self.receiver.blind_slots,
            "calibration_errors": {
                name: calibration.qber(basis) for basis, name in enumerate(_BASES)
            },
            "delays_ps": {
                label: (self.receiver.delays or {}).get(channel)
                for label, channel in self._channels.items()
            },
            "aborted": bool(reason),
            "reason": reason,
        }

    def draw(self, folder: Path) -> None:
        """Draw gains and errors of the intensities."""
        from .. import plots

        tally = self.sender.tally
        sent = tally.sent.sum(axis=1)
        counts, _ = self.sender.blocks.get(0, (None, None))
        if counts is None or not sent.all():
            return
        gains = tally.detected.sum(axis=(1, 2)) / sent
        closed = _closed(self.terms.intensities, gains, counts)
        plots.plot_decoys(
            folder / "decoys.png",
            np.array(self.terms.intensities),
            sent,
            tally.detected.sum(axis=(1, 2)),
            np.array(counts.test),
            np.array(counts.wrong),
            closed,
            names=self._file.intensities,
            title=f"{self._name}: gains and errors of the intensities",
        )


def _closed(
    photons: tuple[float, ...], gains: npt.NDArray[Any], counts: bb84.DecoyCounts
) -> tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]:
    """The closed form with the efficiency, dark counts and misalignment that fit."""
    from ..protocols.qkd.bb84 import receiver_gains

    none = 1.0 - gains
    eta = math.log(none[-1] / none[0]) / (photons[0] - photons[-1])
    dark = max(0.0, 1.0 - (none[-1] * math.exp(eta * photons[-1])) ** 0.25)
    tried = np.linspace(0.0, 0.5, 1001)
    errors = [receiver_gains(photons, eta, dark, one)[2] @ counts.test for one in tried]
    misalignment = float(np.interp(sum(counts.wrong), errors, tried))
    x = np.geomspace(min(photons[-1] or 1e-4, 1e-3) / 2, 1.5 * photons[0], 200)
    gain, _, error = receiver_gains(x, eta, dark, misalignment)
    return x, gain, error


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _percent(rate: float | None) -> str:
    return "-" if rate is None else f"{100 * rate:.2f} %"


def _rows(m: Mapping[str, Any]) -> list[tuple[str, str]]:
    from rich.markup import escape

    rows = []
    for name, photons in m["photons"].items():
        error = None if m["errors"] is None else m["errors"][name]
        gain = f"{m['gains'][name]:.3e}"
        rows.append((f"{name}, {photons:g} photons", f"gain {gain}, error {_percent(error)}"))
    rows += [
        ("pulses, sifted bits", f"{m['pulses']:,}, {m['sifted_bits']:,}"),
        ("QBER X, Z", f"{_percent(m['qber_x'])}, {_percent(m['qber_reconciled'])}"),
    ]
    if m["counts"] is not None:
        single, n = m["single_photons_key"], sum(m["counts"]["key"])
        rows += [
            ("bits in Z, from single photons", f"{n:,}, {single:,.0f} at least"),
            ("phase error", f"{_percent(m['phase_error'])} at most"),
        ]
    f_ec = "-" if m["f_ec"] is None else f"{m['f_ec']:.3f}"
    rows.append(("leak, f", f"{m['leak_bits']:,} of {m['leak_budget_bits']:,} bits, {f_ec}"))
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


EXPERIMENT = Experiment(DecoyFile, _check, _run, _rows)
