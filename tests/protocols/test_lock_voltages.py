"""The lock on squeezers with hysteresis and creep, and on liquid crystals, on links that drift."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from bellbench.instruments import Limits
from bellbench.protocols.lock import (
    LockSettings,
    LockState,
    PolarizationLock,
    RetarderStation,
    Station,
)
from bellbench.sims.elements import (
    LiquidCrystals,
    LiquidCrystalsModel,
    Squeezers,
    SqueezersModel,
)
from bellbench.sims.physics.liquid_crystal import retardance_deg
from bellbench.sims.physics.polarization import rotation

VISIBILITY = 0.98
OPTIMUM = (1 - VISIBILITY) / 2
NOBODY = Station((), (), ())
NO_RNG: Any = None  # squeezers and cells draw nothing

Complex = npt.NDArray[np.complex128]
Real = npt.NDArray[np.float64]


def turned(vector: npt.ArrayLike) -> Complex:
    return rotation(np.degrees(np.asarray(vector, dtype=float)))


class Ends:
    """What the parties have; ``jones`` is what light meets, ``set`` what an instrument does."""

    def jones(self) -> list[Complex]:
        raise NotImplementedError

    def set(self, points: Sequence[Sequence[float]]) -> None:
        raise NotImplementedError

    def pass_time(self, seconds: float) -> None:
        raise NotImplementedError


class Piezos(Ends):
    """Squeezers at both ends, or Alice's only, settled for ten minutes."""

    def __init__(self, rng: np.random.Generator, limit: float, both: bool) -> None:
        model = SqueezersModel(kind="squeezers", max_voltage=limit, hysteresis=0.1, creep=0.02)
        self.model, self.limit = model, limit
        self.parties = [Squeezers(model) for _ in range(1 + both)]
        for each in self.parties:
            for i in range(4):
                each.drive(i, float(rng.uniform(-0.6, 0.6)) * limit)
        self.pass_time(600.0)
        self.resets: list[tuple[float, list[float]]] = []

    def stations(self) -> list[Any]:
        half = 180 / self.model.pi_voltage
        limits = (Limits(-self.limit, self.limit),) * 4
        curve = ((0.0, 0.0), (1.0, half))
        made = [
            RetarderStation(self.model.axes, curve, limits, tuple(each.volts))
            for each in self.parties
        ]
        return [*made, NOBODY][:2]

    def jones(self) -> list[Complex]:
        found = [each.passage().jones for each in self.parties]
        return [*found, np.eye(2, dtype=np.complex128)][:2]

    def set(self, points: Sequence[Sequence[float]]) -> None:
        for party, volts in zip(self.parties, points, strict=False):
            moves = [v - old for v, old in zip(volts, party.volts, strict=True)]
            if max(map(abs, moves)) > 1.0:
                self.resets.append((max(moves, key=abs), sorted(map(abs, moves))[:-1]))
            for i, v in enumerate(volts):
                assert abs(v) <= self.limit
                party.drive(i, round(v, 3))

    def pass_time(self, seconds: float) -> None:
        for each in self.parties:
            each.step_s = seconds  # exact, however long
            each.step(NO_RNG, 0.0)


class Cells(Ends):
    """Liquid crystals at Alice's only."""

    volts = np.linspace(0, 10, 41)

    def __init__(self) -> None:
        self.model = LiquidCrystalsModel(kind="liquid_crystals")
        self.cells = LiquidCrystals(self.model)
        self.cells.driven = True
        self.set([[1.9, 2.4, 2.1, 2.9]])
        self.pass_time(10.0)

    def stations(self) -> list[Any]:
        m = self.model
        measured = retardance_deg(self.volts, m.retardance, m.threshold, m.scale)
        curve = tuple(
            (float(v), float(r)) for v, r in zip(self.volts, measured, strict=True) if 1 <= v <= 6
        )
        limits = (Limits(1.0, 6.0),) * 4
        return [RetarderStation(m.axes, curve, limits, tuple(self.cells.amplitudes_v)), NOBODY]

    def jones(self) -> list[Complex]:
        return [self.cells.passage().jones, np.eye(2, dtype=np.complex128)]

    def set(self, points: Sequence[Sequence[float]]) -> None:
        self.cells.amplitudes_v = list(points[0])

    def pass_time(self, seconds: float) -> None:
        self.cells.step_s = seconds
        self.cells.step(NO_RNG, 0.0)


def run(
    ends: Any,
    seconds: float,
    *,
    drift: Any,
    seed: int = 1,
    rate: float = 450.0,
    locked: bool = True,
) -> tuple[Real, list[LockState]]:
    """A link that begins at its optimum; ``drift(rng, dt)`` turns Alice's fibre."""
    rng = np.random.default_rng(seed)
    before = turned(rng.normal(size=3) * 2)
    alice, bob = ends.jones()
    fibre = np.linalg.inv(alice) @ np.linalg.inv(bob @ before).T
    fibres = [fibre, before]  # (B before) (A fibre)^T = 1
    lock = PolarizationLock(tuple(ends.stations()), LockSettings(good=0.03))
    qber, states, step = [], [], 0.5
    for k in range(round(seconds / step)):
        now = k * step
        ends.pass_time(step)
        fibres[0] = drift(rng, step) @ fibres[0]
        a, b = (o @ f for o, f in zip(ends.jones(), fibres, strict=True))
        w = b @ a.T
        z = abs(w[0, 0]) ** 2 - abs(w[0, 1]) ** 2
        x = (w[0, 0] * w[1, 1].conjugate() + w[0, 1] * w[1, 0].conjugate()).real
        rates = [(1 - VISIBILITY * z) / 2, (1 - VISIBILITY * x) / 2]
        qber.append(sum(rates) / 2)
        compared = rng.poisson(rate * step / 2, 2)
        lock.add(now, now + step, compared.tolist(), rng.binomial(compared, rates).tolist())
        points = lock.advance(now + step, True)
        if points is not None and locked:
            ends.set(points)
        states.append(lock.state)
    return np.array(qber), states


def walk(drift_time: float) -> Any:
    """Czegledi's walk."""
    return lambda rng, dt: turned(rng.normal(size=3) * math.sqrt(dt / drift_time))


def winding(axis: Sequence[float], period_s: float) -> Any:
    """A fibre that turns steadily one way, as it does while it warms up."""
    return lambda rng, dt: turned(np.array(axis) * 2 * math.pi * dt / period_s)


def per_minute(qber: Real) -> Real:
    found: Real = qber[: qber.size // 120 * 120].reshape(-1, 120).mean(axis=1)
    return found


@pytest.mark.parametrize("both", [pytest.param(True, marks=pytest.mark.slow), False])
def test_squeezers_hold_a_link_that_walks_off(both: bool) -> None:
    ends = Piezos(np.random.default_rng(2), 5.0, both)
    qber, states = run(ends, 420, drift=walk(3600.0), seed=4)
    assert qber.mean() < OPTIMUM + 0.008
    assert per_minute(qber).max() < OPTIMUM + 0.02
    assert states.count(LockState.LOCKED) > 0.95 * len(states)
    alone, _ = run(
        Piezos(np.random.default_rng(2), 5.0, both), 420, drift=walk(3600.0), seed=4, locked=False
    )
    assert per_minute(alone)[-1] > OPTIMUM + 0.03


def test_at_the_end_of_a_range_one_stage_is_unwound_while_the_others_hold() -> None:
    """Range of 1.4 turns; the fibre winds by 1.2 turns about S2."""
    ends = Piezos(np.random.default_rng(1), 2.0, both=False)
    qber, states = run(ends, 1100, drift=winding([0, 1, 0], 900), rate=900)
    assert ends.resets
    for most, others in ends.resets:
        assert abs(most) == pytest.approx(2 * 1.4, abs=0.15)  # a full turn of one stage
        assert max(others) < 0.15
    assert per_minute(qber).max() < OPTIMUM + 0.025
    assert states.count(LockState.LOCKED) > 0.95 * len(states)


def test_liquid_crystals_hold_it_by_their_measured_curve() -> None:
    qber, states = run(Cells(), 300, drift=walk(3600.0), seed=6)
    assert qber.mean() < OPTIMUM + 0.008
    assert states.count(LockState.LOCKED) > 0.9 * len(states)


def test_a_pi_voltage_off_by_5_percent_does_not_matter() -> None:
    """At retardances of a turn; 20 percent would be too much."""

    class Off(Piezos):
        def stations(self) -> list[Any]:
            made = super().stations()
            old = made[0]
            curve = tuple((v, 0.95 * r) for v, r in old.curve)
            return [RetarderStation(old.axes_deg, curve, old.limits, old.volts), NOBODY]

    qber, _ = run(Off(np.random.default_rng(3), 5.0, both=False), 300, drift=walk(3600.0), seed=5)
    assert qber.mean() < OPTIMUM + 0.012


def test_set_points_of_two_kinds() -> None:
    squeezers = RetarderStation(
        (0, 45, 0, 45), ((1, 120), (2, 240)), (Limits(-5, 5),) * 4, (0.5, -1.0, 2.0, -3.0)
    )
    paddles = Station((90.0, 180.0, 90.0), (Limits(0, 170),) * 3, (10.0, 20.0, 30.0))
    lock = PolarizationLock((squeezers, paddles))
    assert lock.set_points[0] == pytest.approx((0.5, -1.0, 2.0, -3.0))
    assert lock.set_points[1] == pytest.approx((10.0, 20.0, 30.0))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"volts": (0.0,) * 3}, "do not describe the same retarders"),
        ({"volts": (0.0, 0.0, 0.0, 5.1)}, "5.1 V is outside -5 to 5 V"),
        ({"curve": ((0.0, 1.0),)}, "two points"),
        ({"curve": ((0.0, 1.0), (0.0, 2.0))}, "voltages rise"),
        ({"curve": ((0.0, 1.0), (1.0, 2.0), (2.0, 0.0))}, "all rise or all fall"),
    ],
)
def test_nonsense_is_refused(change: dict[str, Any], words: str) -> None:
    right: dict[str, Any] = {
        "axes_deg": (0, 45, 0, 45),
        "curve": ((-5, -600), (5, 600)),
        "limits": (Limits(-5, 5),) * 4,
        "volts": (0.0,) * 4,
    }
    RetarderStation(**right)
    with pytest.raises(ValueError, match=words):
        RetarderStation(**right | change)
