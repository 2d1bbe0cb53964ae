"""Brightness and reach of pulsed pair sources, against the paper and a second program."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from bellbench.protocols.qkd.link_model import PulsedArm
from bellbench.protocols.qkd.spdc import PulsedOptimum, best_brightness
from qkd import _core as _qkd

ORACLE: Any = _qkd  # qkd 0.2.0 (PyPI, MIT)


def gys(km_a: float, km_b: float) -> PulsedOptimum:
    arms = [PulsedArm(0.145 * 10 ** (-0.02 * km), 6.02e-6) for km in (km_a, km_b)]
    return best_brightness(arms[0], arms[1], 0.015, f_ec=1.22)


def test_ma_fung_lo_without_fibre() -> None:
    best = gys(0, 0)
    assert best.mean_pairs == pytest.approx(0.1176, abs=5e-5)
    assert best.qber == pytest.approx(0.0574, abs=5e-5)
    assert best.gain == pytest.approx(2.776e-3, rel=3e-4)
    assert best.key_per_pulse == pytest.approx(4.114e-4, rel=2e-4)


def test_reach_from_the_middle_and_from_a_party() -> None:
    assert gys(154.05, 154.05).key_per_pulse > 0 == gys(154.1, 154.1).key_per_pulse
    assert gys(0, 183.0).key_per_pulse > 0 == gys(0, 183.1).key_per_pulse


def test_optimum_agrees_with_an_independent_program() -> None:
    rng = np.random.default_rng(4)
    for _ in range(25):
        eta = 10 ** rng.uniform(-3, -0.1, 2)
        dark, wrong, f_ec = 10 ** rng.uniform(-8, -5, 2), rng.uniform(0, 0.04), rng.uniform(1, 1.3)
        best = best_brightness(
            PulsedArm(eta[0], dark[0]), PulsedArm(eta[1], dark[1]), wrong, f_ec=f_ec
        )
        lam, gain, qber, key = ORACLE.pair_optimum(*eta, *dark, wrong, f_ec, 0.5)
        assert best.key_per_pulse == pytest.approx(key, rel=1e-6, abs=1e-16)
        if key > 1e-12:
            assert best.mean_pairs == pytest.approx(2 * lam, rel=2e-3)
            assert (best.gain, best.qber) == pytest.approx((gain, qber), rel=3e-3)
    with pytest.raises(ValueError):
        best_brightness(PulsedArm(0.1), PulsedArm(0.1), f_ec=math.nan)
