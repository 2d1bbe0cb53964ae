"""Figures of a link and their errors, from counts drawn of a known link."""

import math

import numpy as np
import pytest
from bellbench.protocols.characterization import PairLink, characterize, finite_key_bits
from bellbench.protocols.estimates import Estimate
from bellbench.protocols.qkd.finite_key import choose_sample
from bellbench.protocols.qkd.link_model import Arm, CwLink
from bellbench.protocols.timing import Coincidences, CountRates

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
    # 9 seen and none of 20 accidental windows: no fewer than 9 - 1.645 x 3, no more than 3/20
    assert few.car_at_least == pytest.approx((9 - 1.645 * 3) * 20 / 3)
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
