"""Planning a link with a pulsed source of pairs: how bright, and how far.

Ma, Fung and Lo, PRA 76, 012307 (2007), eqs (5), (9) and (10), through
:class:`~bellbench.protocols.qkd.link_model.PulsedLink`. Continuously pumped sources are
:class:`~bellbench.protocols.qkd.link_model.CwLink`. A forward model, not a security bound.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from .finite_key import check_efficiency
from .link_model import PulsedArm, PulsedLink

__all__ = ["PulsedOptimum", "best_brightness"]


@dataclass(frozen=True, slots=True)
class PulsedOptimum:
    """The brightness that gives most key, and what comes with it.

    Attributes:
        mean_pairs: Mean number of pairs per pulse (mu = 2 lambda).
        gain: Coincidences per pulse.
        qber: Error rate of the sifted bits.
        key_per_pulse: Secret bits per pulse for infinitely long keys; 0 where there is no key.
    """

    mean_pairs: float
    gain: float
    qber: float
    key_per_pulse: float


def best_brightness(
    alice: PulsedArm,
    bob: PulsedArm,
    error: float = 0.0,
    *,
    f_ec: float = 1.1,
    sifting: float = 0.5,
    brightest: float = 2.0,
) -> PulsedOptimum:
    """Find the mean number of pairs per pulse that gives most key.

    Args:
        alice: Alice's arm; numbers, not arrays.
        bob: Bob's.
        error: Error rate of a single pair.
        f_ec: Efficiency of the reconciliation, 1 at the Shannon limit.
        sifting: Share of coincidences in equal bases.
        brightest: Largest mean number of pairs looked at.

    Raises:
        ValueError: for ``f_ec`` below 1.
    """
    check_efficiency(f_ec)
    low, high = math.log(1e-7 * brightest), math.log(brightest)
    for _ in range(6):
        mu = np.exp(np.linspace(low, high, 129))
        rates = PulsedLink(mu, alice, bob, error).rates()
        key = rates.key_per_pulse(f_ec=f_ec, sifting=sifting)
        i = int(np.argmax(key))
        low, high = math.log(mu[max(i - 1, 0)]), math.log(mu[min(i + 1, 128)])
    return PulsedOptimum(float(mu[i]), float(rates.gain[i]), float(rates.qber[i]), float(key[i]))
