"""Figures of a link and their errors, from counts drawn of a known link."""

import itertools
import math

import numpy as np
import pytest
from bellbench.instruments import Loss, TagBatch
from bellbench.protocols.characterization import PairLink, Squasher, characterize, finite_key_bits
from bellbench.protocols.estimates import Estimate
from bellbench.protocols.qkd.finite_key import choose_sample
from bellbench.protocols.qkd.link_model import Arm, CwLink, PulsedArm, PulsedLink
from bellbench.protocols.qkd.randomness import SeededRandomness
from bellbench.protocols.timing import CoincidenceCounter, Coincidences, CountRates
from hypothesis import given, settings
from hypothesis import strategies as st

CHANNELS = (1, 2, 3, 4)
SHIFTS = 20
LINK = CwLink(1e6, Arm(0.05, 400), Arm(0.02, 400), 500e-12, 200e-12, 0.02)


def cells(true: float, accidental: float, error: float) -> np.ndarray:
    """Mean counts of a state that agrees in Z and X but for ``error``, and of no state."""
    right, wrong = (1 - error) / 8, error / 8
    found = np.full((4, 4), 1 / 16)
    for i in (0, 2):
        found[i : i + 2, i : i + 2] = [[right, wrong], [wrong, right]]
    return true * found + accidental / 16


def counted(counts: np.ndarray, shifted: np.ndarray, s: float) -> Coincidences:
    return Coincidences(
        CHANNELS, CHANNELS, 500, counts.astype(np.int64), shifted.astype(np.int64), s
    )


def rates(clicks: int, seconds: float) -> CountRates:
    return CountRates(dict.fromkeys(CHANNELS, clicks // 4), seconds, seconds)


def draw(link: CwLink, seconds: float, rng: np.random.Generator) -> PairLink:
    told = link.rates()
    accidental = float(told.accidental_hz) * seconds
    means = cells(float(told.true_hz) * seconds, accidental, float(link.error))
    counts = rng.poisson(means)
    shifted = rng.poisson(accidental / 16, (SHIFTS, 4, 4))
    singles = [
        rates(int(rng.poisson(float(each) * seconds)), seconds)
        for each in (told.singles_a_hz, told.singles_b_hz)
    ]
    darks = [rates(int(rng.poisson(400 * seconds)), seconds) for _ in range(2)]
    return characterize(
        counted(counts, shifted, seconds),
        (singles[0], singles[1]),
        darks=(darks[0], darks[1]),
    )


def test_figures_and_their_errors_are_those_of_the_link() -> None:
    """Pulls of 400 recordings: mean 0 and width 1, each to 4 sigma."""
    rng = np.random.default_rng(7)
    told = LINK.rates()
    inside = float(told.true_hz) / (1e6 * 0.05 * 0.02)  # of the peak, in the window
    truth: dict[str, float] = {
        "true_hz": float(told.true_hz),
        "accidentals_hz": float(told.accidental_hz),
        "car": float(told.car),
        "qber": float(told.qber),
        "key_rate_bps": float(told.key_rate_bps()),
        "eta_a": 0.05 * inside,
        "eta_b": 0.02 * inside,
        "pair_rate_hz": 1e6 / inside,
    }
    pulls: dict[str, list[float]] = {name: [] for name in truth}
    for _ in range(400):
        seen = draw(LINK, 3.0, rng)
        found = {name: getattr(seen, name) for name in truth if hasattr(seen, name)}
        found |= {"qber": seen.qber["all"], "eta_a": seen.heralding[0], "eta_b": seen.heralding[1]}
        for name, value in truth.items():
            pulls[name].append((found[name].value - value) / found[name].sigma)
    for name, each in pulls.items():
        assert abs(np.mean(each)) < 4 / math.sqrt(400) + 0.1, name  # 0.1: ratios are biased
        assert np.std(each) == pytest.approx(1, abs=4 / math.sqrt(800)), name


def test_a_finite_block_gives_less_than_an_endless_key() -> None:
    seen = draw(LINK, 100.0, np.random.default_rng(1))
    endless = seen.key_rate_bps.value * 100
    bits = finite_key_bits(seen)
    assert 0 < bits.value < endless
    again = choose_sample(seen.sifted_hz.n, seen.qber["all"].value, 1.1, 1e-10)
    assert bits.value == again.length
    assert bits.sigma > 0


def test_few_counts_have_errors_and_no_infinities() -> None:
    none = np.zeros((4, 4))
    empty = characterize(
        counted(none, np.zeros((SHIFTS, 4, 4)), 10.0), (rates(0, 10.0), rates(0, 10.0))
    )
    assert (empty.coincidences_hz.value, empty.coincidences_hz.sigma) == (0, 0.1)
    assert (empty.true_hz.value, empty.key_rate_bps.value) == (0, 0)
    assert finite_key_bits(empty) == Estimate(0, 0, 0)
    assert math.isnan(empty.qber["Z"].value)
    assert math.isnan(empty.heralding[0].value)
    one = none.copy()
    one[0, 0] = 9
    few = characterize(
        counted(one, np.zeros((SHIFTS, 4, 4)), 10.0), (rates(4000, 10.0), rates(4000, 10.0))
    )
    assert math.isnan(few.car.value)
    # 9 in one window and none in 20 others: p^9 = 5 % of them all in the one, at a ratio p/(1 - p)
    p = 0.05 ** (1 / 9)
    assert few.car_at_least == pytest.approx(20 * p / (1 - p) - 1)
    assert few.qber["Z"].value == 0
    assert 0.05 < few.qber["Z"].sigma < 0.2
    assert math.isnan(few.qber["X"].value)
    assert few.heralding[0].value == pytest.approx(9 / 4000)
    assert few.heralding[0].sigma == pytest.approx(3 / 4000, rel=0.01)


def test_counts_of_another_bench_are_refused() -> None:
    with pytest.raises(ValueError, match="four detectors per party"):
        characterize(
            Coincidences(
                (1,), (1,), 10, np.zeros((1, 1), np.int64), np.zeros((1, 1, 1), np.int64), 1.0
            ),
            (rates(0, 1.0), rates(0, 1.0)),
        )


@pytest.mark.parametrize(
    ("value", "sigma", "shown"),
    [
        (49_281.6, 70.2, "49,282 ± 70"),
        (0.01147, 0.0004, "0.01147 ± 0.00040"),
        (3.14e-5, 1.2e-5, "(3.1 ± 1.2)e-05"),
        (7.0, 0.0, "7.00 ± 0.00"),
        (math.nan, math.nan, "-"),
    ],
)
def test_an_estimate_reads_to_the_second_digit_of_its_error(
    value: float, sigma: float, shown: str
) -> None:
    assert str(Estimate(value, sigma)) == shown


PERIOD, WINDOW = 100_000, 4_000
DELAYS = ({1: 30, 2: -500, 3: 0, 4: 700}, {1: 9_000, 2: 8_000, 3: 8_500, 4: 8_999})


def pulses(
    number: int, mean: float, efficiency: float, background: float, rng: np.random.Generator
) -> list[TagBatch]:
    """Clicks of both parties, in H and V only, on pulses of two thermal modes of pairs."""
    lam = mean / 2
    pairs = rng.geometric(1 / (1 + lam), (number, 2)) - 1
    dark = 1 - math.sqrt(1 - background)  # of one of the two detectors
    found = []
    for delays in DELAYS:
        clicked = rng.random((number, 2)) < 1 - (1 - dark) * (1 - efficiency) ** pairs
        pulse, mode = np.nonzero(clicked)
        times = (pulse + 1) * PERIOD + rng.integers(-300, 301, pulse.size)
        times += np.where(mode == 0, delays[1], delays[2])
        order = np.argsort(times, kind="stable")
        channels = (mode[order] + 1).astype(np.int16)
        found.append(TagBatch(times[order], channels, 0, (number + 2) * PERIOD))
    return found


def counter(delays: list[dict[int, int]]) -> CoincidenceCounter:
    return CoincidenceCounter(
        CHANNELS, CHANNELS, WINDOW, delays_a=delays[0], delays_b=delays[1], shifts_ps=[PERIOD // 2]
    )


@pytest.mark.parametrize("mean", [0.1176, 2.0])
def test_squashed_clicks_are_those_of_the_closed_form(mean: float) -> None:
    """Gain and error rate of a pulsed source, to 4 sigma, where many pairs of clicks are extra."""
    number, efficiency, background = 400_000, 0.4, 1e-3
    parties = pulses(number, mean, efficiency, background, np.random.default_rng(11))
    arm = PulsedArm(efficiency, background)
    told = PulsedLink(mean, arm, arm).rates()
    squashers = [
        Squasher(CHANNELS, delays, WINDOW, SeededRandomness(3, name))
        for delays, name in zip(DELAYS, ("alice", "bob"), strict=True)
    ]
    squashed = counter([dict.fromkeys(CHANNELS, each.delay_ps) for each in squashers])
    squashed.add(*[each.add(batch) for each, batch in zip(squashers, parties, strict=True)])
    squashed.add(*[each.finish() for each in squashers])
    counts = squashed.finish()
    assert counts.counts[2:].sum() == counts.counts[:, 2:].sum() == 0
    n = int(counts.counts.sum())
    gain, qber = float(told.gain), float(told.qber)
    assert n / number == pytest.approx(gain, abs=4 * math.sqrt(gain * (1 - gain) / number))
    errors = int(counts.counts[0, 1] + counts.counts[1, 0])
    assert errors / n == pytest.approx(qber, abs=4 * math.sqrt(qber * (1 - qber) / n))
    # all pairs of clicks are more, and more of them wrong
    plain = counter(list(DELAYS))
    plain.add(*parties)
    pairs = plain.finish().counts
    assert pairs.sum() > 1.02 * n
    assert pairs[0, 1] + pairs[1, 0] > 1.15 * errors


@given(
    st.lists(st.integers(0, 21 * PERIOD), max_size=6),
    st.lists(st.integers(0, 21 * PERIOD), max_size=2),
)
@settings(max_examples=25, deadline=None)
def test_squashed_events_do_not_depend_on_the_cut(cuts: list[int], lost: list[int]) -> None:
    batch = pulses(20, 3.0, 0.7, 1e-2, np.random.default_rng(5))[1]
    if len(lost) == 2:
        batch = TagBatch(
            batch.times_ps,
            batch.channels,
            0,
            batch.end_ps,
            losses=(Loss("gap", min(lost), max(lost)),),
        )
    whole = Squasher(CHANNELS, DELAYS[1], WINDOW, SeededRandomness(3, "bob"))
    expected = [whole.add(batch), whole.finish()]
    parts = Squasher(CHANNELS, DELAYS[1], WINDOW, SeededRandomness(3, "bob"))
    found, rest = [], batch
    for cut in sorted(cuts):
        head, rest = rest.split(cut)
        found.append(parts.add(head))
    found += [parts.add(rest), parts.finish()]
    for before, after in itertools.pairwise(found):
        assert before.end_ps == after.begin_ps
    for name in ("times_ps", "channels"):
        one, other = (
            np.concatenate([getattr(each, name) for each in pieces]) for pieces in (expected, found)
        )
        assert np.array_equal(one, other)
    assert parts.double_clicks == whole.double_clicks > 0
    with pytest.raises(ValueError, match="Squasher is finished: make a new one"):
        parts.add(rest.split(rest.end_ps)[1])
    assert sum(each.live_s for each in found) == pytest.approx(sum(e.live_s for e in expected))
    assert sum(each.live_s for each in found) == pytest.approx(batch.live_s, abs=1e-12 * WINDOW)
    times = np.concatenate([each.times_ps for each in found])
    assert np.all(np.diff(times) > WINDOW)
