"""MDI-QKD: two senders of weak coherent pulses and a relay that nobody trusts, to a key."""

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
from ..instruments import BellbenchError, ProtocolError, Unit, WeakCoherentSource
from ..live import Progress
from .contract import Duration, Experiment, ExperimentFile, Mistake, Model, Result, Run, lacks

if TYPE_CHECKING:
    from ..lab import Lab
    from ..protocols import qkd
    from ..protocols.qkd import mdi
    from ..protocols.qkd.mdi_link import Fit, RelayGains

__all__ = ["EXPERIMENT", "Exchange", "MdiFile", "MdiKey"]

_STEP_S = 0.01
_SETTLE_S = 0.1  # of dark recording before the first shot
_GRACE_S = 1.0  # after which a tagger that shows no time is taken for dead
_PADS = 32
_LABELS = ("cH", "cV", "dH", "dV")
_STATES = ("H", "V", "D", "A")  # Z0, Z1, X0, X1
_SENDERS = ("alice", "bob")
_BASES = ("Z", "X")

Counts = npt.NDArray[np.int64]
_Share = Annotated[float, Unit("1"), Field(gt=0, lt=1)]


class MdiKey(Model):
    """Terms of the key, fixed before the data; see :class:`~bellbench.protocols.qkd.mdi.MdiTerms`.

    Epsilons are those of one Bell state; there are two.
    """

    qber_tolerance: Annotated[float, Unit("1"), Field(gt=0, lt=0.5)] = 0.02
    """Error rate in Z for which the leak of reconciliation is reserved, and charged."""
    secrecy: Annotated[float, Unit("1"), Field(ge=1e-60, lt=1)] = 1e-10
    correctness: Annotated[float, Unit("1"), Field(ge=1e-37, lt=1)] = 1e-15
    leak_efficiency: Annotated[float, Unit("1"), Field(gt=1)] = 1.1
    """f at which it is reserved."""


class Senders(Model):
    """Weak coherent source of each party, by its name on the bench."""

    alice: str = "alice_transmitter"
    bob: str = "bob_transmitter"


class MdiFile(ExperimentFile):
    """What an experiment file of this protocol says."""

    protocol: Literal["mdi"]
    duration: Duration
    """Of all shots together, in bench time, rounded up to whole ones: one block."""
    senders: Senders = Senders()
    """Who plays the pulses."""
    pulse_rate: Annotated[float, Unit("Hz"), Field(gt=0, le=1e10)] = 12.5e6
    """Of both."""
    shot_pulses: Annotated[int, Field(ge=1000, le=1 << 24)] = 600_000
    """Pulses of a shot, its preamble included."""
    preamble: Annotated[int, Field(ge=64, le=1 << 20)] = 8192
    """Public pulses at the beginning of a shot, by which the relay finds it."""
    gate: Annotated[float, Unit("s"), Field(gt=0, le=1e-3)] = 4e-9
    """Full width of the relay's gate."""
    intensities: tuple[str, str, str] = ("signal", "decoy", "vacuum")
    """Names of the sources' intensities, from the strongest to the weakest."""
    probabilities: tuple[_Share, _Share, _Share]
    """Of each intensity."""
    z_fraction: _Share
    """Probability of the key's basis at each party."""
    key: MdiKey = MdiKey()
    """Terms of the key."""


def _shot_s(file: MdiFile) -> float:
    return file.shot_pulses / file.pulse_rate


def _terms(file: MdiFile, photons: Mapping[str, Mapping[str, float]]) -> mdi.MdiTerms:
    """The terms, in the protocol's own words.

    Args:
        file: The experiment.
        photons: Of each sender and intensity.
    """
    from ..protocols.qkd import mdi

    alice, bob = (
        tuple(photons[name][intensity] for intensity in file.intensities) for name in _SENDERS
    )
    assert len(alice) == len(bob) == 3
    return mdi.MdiTerms(
        alice=alice,
        bob=bob,
        probabilities=file.probabilities,
        z_fraction=file.z_fraction,
        period_ps=round(1e12 / file.pulse_rate),
        slots=file.shot_pulses,
        preamble=file.preamble,
        shots=max(1, math.ceil(file.duration / _shot_s(file) - 1e-9)),
        gate_ps=round(file.gate * 1e12),
        eps_sec=file.key.secrecy,
        eps_cor=file.key.correctness,
        tolerance=file.key.qber_tolerance,
        leak_efficiency=file.key.leak_efficiency,
        total_epsilon=min(0.5, 1e4 * (file.key.secrecy + file.key.correctness)),
    )


def _check(file: MdiFile, bench: BenchConfig) -> list[Mistake]:
    mistakes: list[Mistake] = lacks(file, bench, "relay", labels=_LABELS)
    photons: dict[str, dict[str, float]] = {}
    for name in _SENDERS:
        here = ("senders", name)
        source = getattr(file.senders, name)
        config = bench.instruments.get(source)
        if config is None:
            near = nearest(source, bench.instruments)
            mistakes.append((here, f"{bench.path} has no instrument {source!r}{near}"))
            continue
        levels = getattr(config.settings, "intensities", None)
        states = getattr(config.settings, "states", None)
        if config.driver != "weak_coherent_source" or levels is None or states is None:
            mistakes.append((here, f"{source!r} is a {config.driver}, no weak coherent source"))
            continue
        missing = [one for one in file.intensities if one not in levels]
        if missing:
            near = nearest(missing[0], levels)
            mistakes.append((("intensities",), f"{source} has no {', '.join(missing)}{near}"))
            continue
        if lost := [one for one in _STATES if one not in states]:
            mistakes.append((here, f"{source} cannot make the states {', '.join(lost)}"))
        photons[name] = {one: levels[one].photons for one in file.intensities}
    if len(photons) == len(_SENDERS):
        try:
            _terms(file, photons)
        except ValueError as error:
            mistakes.append((("key",), str(error)))
    return mistakes


def _run(file: MdiFile, run: Run) -> Result:
    exchange = Exchange(file, run.name, run.open(), run.show)
    exchange.run()
    metrics = exchange.metrics()
    return Result(metrics, exchange.draw, exchange.files())


class Exchange:
    """One MDI exchange on an open bench: plays shots, moves clicks, messages and time.

    Args:
        file: Its terms.
        name: Of the experiment, for titles.
        lab: The bench.
        show: Called with the progress.

    Attributes:
        alice: One party's session.
        bob: The other's.
        senders: Their sifting parties.
        relay: The relay.
    """

    def __init__(
        self, file: MdiFile, name: str, lab: Lab, show: Callable[[Progress], None]
    ) -> None:
        from ..protocols import qkd
        from ..protocols.qkd import mdi
        from ..protocols.qkd.authentication import HEAD_BYTES, PAIR_BYTES, memory_pads
        from ..protocols.qkd.sink import MemorySink

        self._file = file
        self._name = name
        self._lab = lab
        self._show = show
        self._seeded = lab.seeded and lab.all_twins
        self._sources: list[WeakCoherentSource] = []
        for sender in _SENDERS:
            source = lab.instruments[getattr(file.senders, sender)]
            assert isinstance(source, WeakCoherentSource)  # the check saw its driver
            self._sources.append(source)
        self.terms = _terms(
            file,
            {
                sender: source.info.intensities
                for sender, source in zip(_SENDERS, self._sources, strict=True)
            },
        )
        party = lab.parties["relay"]
        self._tagger = party.tagger
        self._channels = {channel: label for label, channel in party.inputs(_LABELS).items()}
        self.relay = mdi.Relay(self._channels, self.terms)
        self._singles = dict.fromkeys(_LABELS, 0)
        self._tags = 0
        self._live_s = 0.0
        self._start_s = 0.0
        self._reached_ps = 0

        words = self._randomness("pool").words("pool", 0, (HEAD_BYTES + _PADS * PAIR_BYTES) // 8)
        pads = memory_pads(words.tobytes())
        self._sinks = [
            MemorySink(rehearsal=self._seeded or lab.all_twins, append=pool.extend) for pool in pads
        ]
        self.senders: list[mdi.MdiAlice | mdi.MdiBob] = []
        kinds: tuple[type[mdi.MdiAlice], type[mdi.MdiBob]] = (mdi.MdiAlice, mdi.MdiBob)

        def session(i: int) -> qkd.Session:
            def sifting(randomness: qkd.Randomness, history: Any) -> mdi.MdiAlice | mdi.MdiBob:
                self.senders.append(kinds[i](self.terms, randomness, history))
                return self.senders[-1]

            return qkd.Session(
                "alice" if i == 0 else "bob",
                None,
                self.terms,
                sink=self._sinks[i],
                pads=pads[i],
                sifting=sifting,
                twins=lab.all_twins,
                randomness=self._randomness(_SENDERS[i]),
                reserve_pads=_PADS,
            )

        self.alice, self.bob = session(0), session(1)

    def _randomness(self, party: str) -> qkd.Randomness:
        from ..protocols import qkd

        if self._seeded:
            assert self._lab.seed is not None
            return qkd.SeededRandomness(self._lab.seed, party)
        return qkd.SystemRandomness()

    # -- the exchange

    def run(self) -> None:
        """Play, announce, sift and distil; ends early where a party gives up.

        Raises:
            BellbenchError: where the tagger's time stands still.
        """
        from ..protocols import qkd
        from ..protocols.qkd import mdi

        qkd.join(self.alice, self.bob)  # the handshake
        self._start_s = self._lab.clock.now()
        self._tagger.start()
        self._record(_SETTLE_S)
        alice = self.senders[0]
        assert isinstance(alice, mdi.MdiAlice)
        for shot in range(self.terms.shots):
            if self.alice.over:
                break
            for source, sender in zip(self._sources, self.senders, strict=True):
                self._play(source, sender)
            self._record(_shot_s(self._file) + 2 * _STEP_S, feed=True)
            try:
                alice.heralds(self.relay.announce(shot))
            except ProtocolError as error:
                self.alice.abort(f"the relay announces nothing: {error}")
            self.alice.advance()
            qkd.join(self.alice, self.bob)
            self._tell(shot + 1)
        self._tagger.stop()
        for source in self._sources:
            source.stop()
        self.alice.finish()
        self.bob.finish()
        qkd.join(self.alice, self.bob)
        if not (self.alice.over and self.bob.over):
            raise BellbenchError("the parties stopped talking before the exchange was over")

    def _play(self, source: WeakCoherentSource, sender: mdi.MdiAlice | mdi.MdiBob) -> None:
        pulses = sender.prepare()
        names = list(source.info.intensities)
        intensity = np.array([names.index(one) for one in self._file.intensities])
        state = np.array([source.info.states.index(one) for one in _STATES])
        source.play(
            intensity[pulses.intensities], state[pulses.states], self._file.pulse_rate, runs=1
        )

    def _record(self, seconds: float, *, feed: bool = False) -> None:
        """Let time pass until the tagger has told all clicks of so long a time from now."""
        # Its time began when it was started, and what it tells may lag behind.
        until_ps = round((self._lab.clock.now() - self._start_s + seconds) * 1e12)
        waited = 0.0
        while self._reached_ps < until_ps:
            self._lab.clock.sleep(_STEP_S)
            batch = self._tagger.read()
            waited = 0.0 if batch.end_ps > self._reached_ps else waited + _STEP_S
            if waited > _GRACE_S:
                raise BellbenchError(f"the relay's tagger tells no clicks for {_GRACE_S:g} s")
            self._reached_ps = max(self._reached_ps, batch.end_ps)
            if not feed:
                continue
            self.relay.feed(batch)
            self._tags += len(batch)
            self._live_s += batch.live_s
            for channel, label in self._channels.items():
                self._singles[label] += int(np.count_nonzero(batch.channels == channel))

    def _singles_hz(self) -> dict[str, float]:
        live = self._live_s or math.inf
        return {label: count / live for label, count in self._singles.items()}

    def _tell(self, shots: int) -> None:
        seen = self.alice.progress
        in_z, in_x = (int(self._whole(what).sum()) for what in ("key", "test"))
        self._show(
            Progress(
                stage=f"shot {shots} of {self.terms.shots}",
                elapsed_s=shots * _shot_s(self._file),
                duration_s=self.terms.shots * _shot_s(self._file),
                singles_hz={"relay": self._singles_hz()},
                figures={
                    "Bell states": f"{seen.coincidences:,}",
                    "in Z, in X": f"{in_z:,}, {in_x:,}",
                    "QBER Z, X": f"{_percent(seen.qber_z)}, {_percent(seen.qber_x)}",
                    "secret key": f"{seen.key_bits + seen.expected_bits:,} bits",
                },
            )
        )

    def _whole(self, what: str) -> Counts:
        """Counts of both Bell states together."""
        whole = np.zeros((3, 3), np.int64)
        for tally in self.senders[1].tallies.values():
            whole += getattr(tally, what)
        return whole

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
            found |= {f"{sender}.key": key for sender, key in zip(_SENDERS, keys, strict=True)}
        return found

    def _sent(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Pulse pairs of each cell in Z and X that the shots held, as expected."""
        pairs = next((one.pairs for one in self.senders[1].tallies.values()), 0)
        z, x = (np.asarray(self.terms.sources(b).probabilities) for b in ("Z", "X"))
        return pairs * z, pairs * x

    def fit(self) -> Fit | None:
        """Ways and overlap that the counts speak for."""
        from ..protocols.qkd.mdi_link import fit_relay

        return fit_relay(
            self.terms.alice,
            self.terms.bob,
            self._sent(),
            (self._whole("key").astype(float), self._whole("test").astype(float)),
            self._whole("test_wrong").astype(float),
        )

    def metrics(self) -> dict[str, Any]:
        """Return the figures of the run, fit for JSON."""
        from ..protocols.qkd import mdi
        from ..protocols.qkd.mdi_bound import error_of_single_pairs, single_pair_yield

        bob = self.senders[1]
        sent = self._sent()
        key, key_wrong = self._whole("key"), self._whole("key_wrong")
        test, wrong = self._whole("test"), self._whole("test_wrong")
        revealed = key.copy()
        revealed[0, 0] = 0
        alice_mu, bob_mu = self.terms.alice, self.terms.bob
        single: dict[str, Any] = {}
        if sent[0].all():
            yields = [
                single_pair_yield(alice_mu, bob_mu, counts / pairs)
                for counts, pairs in zip((key, test), sent, strict=True)
            ]
            single = {
                "yield": dict(zip(_BASES, yields, strict=True)),
                "error_x": error_of_single_pairs(alice_mu, bob_mu, wrong / sent[1], yields[1]),
            }
        fit = self.fit()
        blocks = self._common_blocks()
        key_bits = 8 * sum(len(self._sinks[0].key(block)) for block in blocks)
        told = self.bob.figures()
        reason = self.alice.reason or self.bob.reason
        if not blocks:
            reason = reason or told["reason"]
        duration = self.terms.shots * _shot_s(self._file)
        budget = self.bob.report()["epsilon"]["spent"]
        return {
            "randomness": "seeded" if self._seeded else "system",
            "duration_s": duration,
            "shots": self.terms.shots,
            "shots_missed": self.relay.missed,
            "shots_with_losses": self.relay.lost,
            "pulse_pairs": int(sum(one.pairs for one in bob.tallies.values()) // 2),
            "offset_slots": self.relay.offset,
            "tags": self._tags,
            "singles_hz": self._singles_hz(),
            "intensities": {"alice": list(alice_mu), "bob": list(bob_mu)},
            "announced": {
                mdi.BELL_STATES[block % 2]: tally.announced for block, tally in bob.tallies.items()
            },
            "gains": {
                basis: _rates(counts, pairs)
                for basis, counts, pairs in zip(_BASES, (key, test), sent, strict=True)
            },
            "errors": {"Z": _rates(key_wrong, revealed), "X": _rates(wrong, test)},
            "single_pairs": single or None,
            "fit": None if fit is None else asdict(fit),
            "hom_visibility": None if fit is None else [v / 2 for v in fit.overlap],
            "bounds": {
                mdi.BELL_STATES[block % 2]: asdict(bound)
                | {"key_bits": int(bob.tallies[block].key[0, 0])}
                for block, bound in bob.bounds.items()
            },
            **{
                name: told[name]
                for name in (
                    "qber_z",
                    "qber_x",
                    "qber_reconciled",
                    "leak_bits",
                    "leak_budget_bits",
                    "f_ec",
                    "disclosed_bits",
                    "traffic_per_sifted_bit",
                )
            },
            "secret_key_bits": key_bits,
            "secret_key_rate_bps": key_bits / duration,
            "epsilon": told["epsilon"] if blocks else None,
            "epsilon_spent": budget,
            "aborted": bool(reason),
            "reason": reason,
        }

    def draw(self, folder: Path) -> None:
        """Draw gains and errors against what the fit predicts."""
        from .. import plots
        from ..protocols.qkd.mdi_link import relay_gains

        fit = self.fit()
        if fit is None:
            return
        model: RelayGains = relay_gains(
            self.terms.alice,
            self.terms.bob,
            fit.efficiency_a[0],
            fit.efficiency_b[0],
            overlap=fit.overlap[0],
        )
        plots.plot_mdi(
            folder / "gains.png",
            self._sent(),
            (self._whole("key"), self._whole("test")),
            self._whole("test_wrong"),
            model,
            intensities=self._file.intensities,
            title=f"{self._name}: announcements, both Bell states",
        )


def _rates(counts: npt.NDArray[Any], of: npt.NDArray[Any]) -> list[list[dict[str, float] | None]]:
    """Counts over trials, with standard deviations; None without trials."""
    return [
        [
            {
                "value": float(n / m),
                "sigma": math.sqrt(max(n, 1) * max(0.0, 1 - n / m)) / float(m),
            }
            if m > 0
            else None
            for n, m in zip(row, trials, strict=True)
        ]
        for row, trials in zip(counts, of, strict=True)
    ]


def _percent(rate: float | None) -> str:
    return "-" if rate is None else f"{100 * rate:.2f} %"


def _rows(m: Mapping[str, Any]) -> list[tuple[str, str]]:
    from rich.markup import escape

    rows = [
        (
            "singles relay, kcps",
            "  ".join(f"{label} {hz * 1e-3:.1f}" for label, hz in m["singles_hz"].items()),
        ),
        (
            "pulse pairs",
            f"{m['pulse_pairs']:,} in {m['shots']} shots, {m['shots_missed']} of them not found",
        ),
        ("Bell states", ", ".join(f"{name} {n:,}" for name, n in m["announced"].items())),
    ]
    for basis in _BASES:
        gain, error = (m[what][basis][0][0] for what in ("gains", "errors"))
        if gain is not None:
            wrong = "key, not revealed" if error is None else _percent(error["value"])
            rows.append((f"signals in {basis}", f"gain {gain['value']:.3e}, errors {wrong}"))
    rows.append(("QBER Z, X, revealed", f"{_percent(m['qber_z'])}, {_percent(m['qber_x'])}"))
    if (single := m["single_pairs"]) is not None:
        y = single["yield"]
        rows.append(
            (
                "single pairs, no margin",
                f"yield Z {y['Z']:.3f}, X {y['X']:.3f} or more;"
                f" error in X {_percent(single['error_x'])} or less",
            )
        )
    if (fit := m["fit"]) is not None:
        a, b, overlap = (fit[key] for key in ("efficiency_a", "efficiency_b", "overlap"))
        rows += [
            ("ways to a click", f"Alice {_sigma(a)}, Bob {_sigma(b)}"),
            ("overlap, HOM visibility", f"{_sigma(overlap)}, {_sigma(m['hom_visibility'])}"),
        ]
    for name, bound in m["bounds"].items():
        rows.append(
            (
                f"bound {name}",
                f"{bound['key_bits']:,} bits: single pairs {bound['single']:,.0f} or more, phase"
                f" error {_percent(bound['phase_error'])} or less, {bound['raw']:,.0f} bits",
            )
        )
    rows.append(("leak", f"{m['leak_bits']:,} of {m['leak_budget_bits']:,} bits"))
    if m["aborted"]:
        rows.append(("[bold red]aborted[/]", f"[bold]{escape(m['reason'])}[/]"))
    else:
        key = f"[bold]{m['secret_key_bits']:,} bits[/] ({m['secret_key_rate_bps']:,.0f} bit/s)"
        rows.append(("[bold green]secret key[/]", f"{key}, epsilon {m['epsilon']:.1e}"))
    if m["randomness"] == "seeded":
        rows.append(("note", "seeded run on twins: the key is reproducible, hence no secret"))
    return rows


def _sigma(value: tuple[float, float] | list[float]) -> str:
    return f"{100 * value[0]:.2f} ± {100 * value[1]:.2f} %"


EXPERIMENT = Experiment(MdiFile, _check, _run, _rows)
