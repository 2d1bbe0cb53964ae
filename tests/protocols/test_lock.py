"""The polarization lock on a link whose fibres walk at random, with no bench below it."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from bellbench.instruments import Limits
from bellbench.protocols.lock import LockSettings, LockState, PolarizationLock, Station
from hypothesis import given, settings
from hypothesis import strategies as st

NOMINAL = (90.0, 180.0, 90.0)
LIMITS = (Limits(0.0, 170.0),) * 3
VISIBILITY = 0.98
OPTIMUM = (1 - VISIBILITY) / 2
GRID_DEG = 170 / 1370

Complex = npt.NDArray[np.complex128]


def turned(vector: npt.ArrayLike) -> Complex:
    """exp(-i vector.sigma/2) with (S1, S2, S3) = (sigma_z, sigma_x, sigma_y)."""
    z, x, y = (float(v) for v in np.asarray(vector, float))
    angle = math.sqrt(x * x + y * y + z * z)
    if angle == 0:
        return np.eye(2, dtype=complex)
    c, s = math.cos(angle / 2), math.sin(angle / 2) / angle
    return np.array([[c - 1j * z * s, -y * s - 1j * x * s], [y * s - 1j * x * s, c + 1j * z * s]])


def paddles(retardances: Sequence[float], angles: Sequence[float]) -> Complex:
    jones: Complex = np.eye(2, dtype=complex)
    for retardance, angle in zip(retardances, angles, strict=True):
        axis = np.array([math.cos(2 * math.radians(angle)), math.sin(2 * math.radians(angle)), 0])
        jones = turned(math.radians(retardance) * axis) @ jones
    return jones


class Link:
    """Two drifting fibres, each with paddles behind it; starts at the optimum."""

    def __init__(
        self,
        seed: int,
        *,
        drift_time: float = math.inf,
        rate: float = 450.0,
        retardances: tuple[tuple[float, ...], ...] = (NOMINAL, NOMINAL),
        patch_cords: bool = False,
    ) -> None:
        self.rng = np.random.default_rng(seed)
        self.drift_time, self.rate, self.retardances = drift_time, rate, retardances
        self.angles = [tuple(self.rng.uniform(20, 150, 3).tolist()) for _ in range(2)]
        self.behind = [self.anything() if patch_cords else np.eye(2) for _ in range(2)]
        first = self.anything()
        alice, bob = self.optics()
        self.fibres = [first, np.linalg.inv(bob) @ np.linalg.inv((alice @ first).T)]

    def anything(self) -> Complex:
        return turned(self.rng.normal(size=3) * 2)

    def optics(self) -> list[Complex]:
        return [
            cord @ paddles(r, a)
            for cord, r, a in zip(self.behind, self.retardances, self.angles, strict=True)
        ]

    def walk(self, seconds: float) -> None:
        """Czegledi's walk: rotation vectors of variance dt/drift_time per axis."""
        for i in range(2):
            step = self.rng.normal(size=3) * math.sqrt(seconds / self.drift_time)
            self.fibres[i] = turned(step) @ self.fibres[i]

    def qber(self) -> tuple[float, float]:
        """Of Z and of X, for pairs of the state (HH + VV)/sqrt2 with white noise."""
        alice, bob = (o @ f for o, f in zip(self.optics(), self.fibres, strict=True))
        w = bob @ alice.T
        z = abs(w[0, 0]) ** 2 - abs(w[0, 1]) ** 2
        x = (w[0, 0] * w[1, 1].conjugate() + w[0, 1] * w[1, 0].conjugate()).real
        return (1 - VISIBILITY * z) / 2, (1 - VISIBILITY * x) / 2

    def lock(self, **keys: Any) -> PolarizationLock:
        alice, bob = (Station(NOMINAL, LIMITS, angles) for angles in self.angles)
        return PolarizationLock((alice, bob), LockSettings(**keys))


def run(link: Link, lock: PolarizationLock | None, seconds: float, step: float = 0.5) -> Any:
    """Let time pass; returns the mean QBER of both bases at each step, and the lock's states."""
    begin = 0.0 if lock is None else getattr(lock, "ended", 0.0)
    qber, states = [], []
    for k in range(round(seconds / step)):
        now = begin + k * step
        if math.isfinite(link.drift_time):
            link.walk(step)
        rates = link.qber()
        qber.append(sum(rates) / 2)
        if lock is None:
            continue
        compared = link.rng.poisson(link.rate * step / 2, 2)
        lock.add(now, now + step, compared.tolist(), link.rng.binomial(compared, rates).tolist())
        points = lock.advance(now + step, True)
        if points is not None:
            link.angles = [
                tuple((np.round(np.array(each) / GRID_DEG) * GRID_DEG).tolist()) for each in points
            ]
        states.append(lock.state)
    if lock is not None:
        lock.ended = begin + round(seconds / step) * step  # type: ignore[attr-defined]
    return np.array(qber), states


def per_minute(qber: npt.NDArray[np.float64], step: float = 0.5) -> npt.NDArray[np.float64]:
    n = round(60 / step)
    means: npt.NDArray[np.float64] = qber[: qber.size // n * n].reshape(-1, n).mean(axis=1)
    return means


# -- what it is for


@pytest.mark.parametrize(
    "seed", [1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 13))]
)
def test_it_holds_for_an_hour_where_the_link_fails_without(seed: int) -> None:
    drift_time = 2 * 3600.0
    link = Link(seed, drift_time=drift_time)
    lock = link.lock(good=0.03)
    qber, states = run(link, lock, 3600)
    # Not in one minute of the hour more than 1.5 points above the optimum.
    assert per_minute(qber).max() < OPTIMUM + 0.015
    assert qber.mean() < OPTIMUM + 0.008
    assert states.count(LockState.LOCKED) > 0.98 * len(states)
    alone, _ = run(Link(seed, drift_time=drift_time), None, 3600, step=2.0)
    assert alone.mean() > 0.05
    assert per_minute(alone, 2.0)[-1] > 0.05


@pytest.mark.parametrize("seed", [4, pytest.param(5, marks=pytest.mark.slow)])
def test_paddles_off_their_retardance_and_fibre_behind_them_do_not_matter(seed: int) -> None:
    off = ((80.0, 192.0, 97.0), (98.0, 170.0, 84.0))
    link = Link(seed, drift_time=7200.0, retardances=off, patch_cords=True)
    qber, _ = run(link, link.lock(good=0.03), 1200)
    assert qber.mean() < OPTIMUM + 0.01
    assert np.quantile(per_minute(qber), 0.9) < OPTIMUM + 0.015


@pytest.mark.parametrize("seed", range(6))
def test_a_link_that_was_turned_by_anything_is_found_again(seed: int) -> None:
    link = Link(seed)
    link.fibres[0] = link.anything() @ link.fibres[0]  # someone touched the rack
    lock = link.lock(good=0.03)
    before = sum(link.qber()) / 2
    qber, states = run(link, lock, 300)
    assert (LockState.LOST in states) == (before > 0.25) or 0.1 < before < 0.3
    assert states[-1] is LockState.LOCKED
    assert lock.reason == ""
    assert per_minute(qber)[-1] < OPTIMUM + 0.01


def test_near_the_ends_of_the_range_other_angles_are_taken() -> None:
    link = Link(7)
    optics = link.optics()
    link.angles = [(3.0, 168.0, 2.0), (168.0, 4.0, 169.0)]
    for i, (old, new) in enumerate(zip(optics, link.optics(), strict=True)):
        link.fibres[i] = np.linalg.inv(new) @ old @ link.fibres[i]
    assert sum(link.qber()) / 2 == pytest.approx(OPTIMUM)
    link.drift_time = 7200.0
    qber, _ = run(link, link.lock(good=0.03), 600)
    assert per_minute(qber).max() < OPTIMUM + 0.015


def test_without_counting_noise_it_finds_the_optimum() -> None:
    """Counts that are expectations: what is left is the method's own error."""
    link = Link(8)
    link.fibres[0] = turned([0.3, -0.25, 0.2]) @ link.fibres[0]
    lock = link.lock()
    bits = 10**9
    for turn in range(1 + 8 * 6):  # a look, and 8 turns
        rates = link.qber()
        assert lock.advance(2.0 * turn, True) is None
        lock.add(2.0 * turn, 2.0 * turn + 1, [bits] * 2, [round(bits * q) for q in rates])
        points = lock.advance(2.0 * turn + 1, True)
        assert points is not None
        link.angles = list(points)
    # what dithering adds, and no more
    assert lock.qber == pytest.approx(OPTIMUM + VISIBILITY * 0.002, abs=1e-4)


def test_a_source_without_coherence_is_called_lost_and_searched_for() -> None:
    """Half of the bits of X are wrong whatever the paddles do: no setting comes below 25 %."""
    link = Link(9)
    lock = link.lock()
    rng = np.random.default_rng(9)
    states = set()
    for k in range(200):
        compared = rng.poisson(225, 2)
        wrong = rng.binomial(compared, [0.02, 0.5])
        lock.add(k, k + 1, compared.tolist(), wrong.tolist())
        lock.advance(k + 1, True)
        states.add(lock.state)
    assert lock.state is LockState.LOST
    assert "search, turn" in lock.reason
    assert LockState.LOCKED not in states


# -- what it must not do

counts = st.tuples(st.integers(0, 2000), st.integers(0, 2000))
share = st.floats(0, 1)


@given(
    st.lists(st.tuples(counts, share, share), max_size=60),
    st.lists(st.floats(0, 170), min_size=6, max_size=6),
    st.lists(st.floats(20, 340), min_size=6, max_size=6),
)
@settings(max_examples=15)
def test_whatever_it_is_told_it_stays_within_the_range_and_does_the_same_again(
    told: list[tuple[tuple[int, int], float, float]], angles: list[float], retardances: list[float]
) -> None:
    stations = (
        Station(tuple(retardances[:3]), LIMITS, tuple(angles[:3])),
        Station(tuple(retardances[3:]), LIMITS, tuple(angles[3:])),
    )

    def points() -> list[Any]:
        lock = PolarizationLock(stations)
        found = []
        for k, (compared, z, x) in enumerate(told):
            wrong = [int(n * p) for n, p in zip(compared, (z, x), strict=True)]
            lock.add(k, k + 1, compared, wrong)
            found.append(lock.advance(k + 1, True))
        return found

    first = points()
    assert first == points()
    for each in first:
        if each is not None:
            assert [len(one) for one in each] == [3, 3]
            assert all(0 <= angle <= 170 for one in each for angle in one)


def test_without_bits_nothing_moves_and_it_says_why() -> None:
    lock = Link(1).lock(patience_s=30)
    before = lock.set_points
    for k in range(100):
        lock.add(k, k + 1, [0, 0], [0, 0])
        assert lock.advance(k + 1, True) is None
    assert str(lock.state) == LockState.IDLE.value
    assert lock.reason.startswith("0 bits were revealed in 30 s")
    assert (lock.set_points, lock.moves) == (before, 0)
    assert math.isnan(lock.qber)


def test_the_light_may_go_out_and_come_back() -> None:
    link = Link(2)
    lock = link.lock(patience_s=20, good=0.03)
    run(link, lock, 60)
    assert str(lock.state) == LockState.LOCKED.value
    link.rate = 0.0
    moves = lock.moves
    run(link, lock, 60)
    assert str(lock.state) == LockState.IDLE.value
    assert lock.moves <= moves + 1
    link.rate = 450.0
    run(link, lock, 60)
    assert str(lock.state) == LockState.LOCKED.value
    assert lock.reason == ""


def test_one_basis_alone_is_not_enough() -> None:
    lock = Link(1).lock(patience_s=30)
    for k in range(50):
        lock.add(k, k + 1, [1000, 0], [10, 0])
        assert lock.advance(k + 1, True) is None
    assert lock.state is LockState.IDLE


def test_bits_of_the_time_before_the_paddles_rest_do_not_count() -> None:
    lock = Link(1).lock()
    lock.advance(0.0, True)
    lock.add(0.0, 1.0, [5000, 5000], [50, 50])
    assert lock.advance(1.0, True) is not None  # moves
    lock.add(1.0, 2.0, [5000, 5000], [50, 50])
    assert lock.advance(2.0, False) is None
    lock.add(2.0, 3.0, [5000, 5000], [50, 50])
    assert lock.advance(3.0, True) is None  # rests from here
    lock.add(3.0, 3.5, [150, 150], [3, 3])
    assert lock.advance(3.5, True) is None
    lock.add(3.5, 4.0, [150, 150], [3, 3])  # 625 bits wanted, 600 there
    assert lock.advance(4.0, True) is None
    lock.add(4.0, 4.5, [20, 20], [3, 3])
    assert lock.advance(4.5, True) is not None


def test_more_light_or_more_dither_makes_it_faster() -> None:
    def moves(rate: float, **keys: Any) -> int:
        link = Link(3, rate=rate)
        lock = link.lock(**keys)
        run(link, lock, 60, step=0.1)
        return lock.moves

    slow = moves(450)
    assert 30 <= slow <= 44  # 60 s x 450/s / 625
    assert moves(1800) > 3 * slow
    assert moves(450, dither=0.008) > 3 * slow


def test_two_stations_or_one_with_three_paddles() -> None:
    three = Station(NOMINAL, LIMITS, (10.0, 20.0, 30.0))
    lock = PolarizationLock((Station((), (), ()), three))
    assert lock.set_points[0] == ()
    assert lock.set_points[1] == pytest.approx((10.0, 20.0, 30.0))
    two = Station(NOMINAL[:2], LIMITS[:2], (10.0, 20.0))
    with pytest.raises(ValueError, match="three paddles"):
        PolarizationLock((two, two))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Station(NOMINAL, LIMITS, (1.0, 2.0)), "do not describe the same paddles"),
        (lambda: Station(NOMINAL, LIMITS, (1.0, 2.0, 171.0)), "171 is outside 0 to 170"),
        (lambda: Station((90.0,), (Limits(5, 6),), (5.5,)), "no range to work in"),
        (lambda: LockSettings(good=0.2, lost=0.1), "good and lost"),
        (lambda: LockSettings(dither=0), "dither"),
        (lambda: LockSettings(patience_s=0), "patience_s"),
    ],
)
def test_nonsense_is_refused(make: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()


def test_counts_that_are_none_and_times_out_of_order_are_refused() -> None:
    lock = Link(1).lock()
    lock.add(0.0, 1.0, [10, 10], [1, 1])
    for begin, end in ((0.5, 1.5), (2.0, 1.5)):
        with pytest.raises(ValueError, match="out of order"):
            lock.add(begin, end, [1, 1], [0, 0])
    for compared, wrong in (([5, 5], [6, 0]), ([5, 5], [-1, 0]), ([5], [1])):
        with pytest.raises(ValueError, match="no errors among bits"):
            lock.add(3.0, 4.0, compared, wrong)
