"""Waiting for heralded links: slots until n of them are there, windows and cut-offs.

Each link tries once per slot and succeeds with probability p, whatever the others do; its waiting
time, 1, 2, ..., is geometric (``shared`` physics sheet, sec. 9).

For the twins of memory nodes; the world of clicks does not use it yet.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from ...instruments.errors import ConfigError

__all__ = [
    "mean_wait",
    "mean_with_cutoff",
    "sample_waits",
    "sample_with_cutoff",
    "wait_distribution",
    "within_window",
]

Real = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


def _checked(links: int, p: float) -> float:
    if links < 1:
        raise ConfigError(f"waiting: there must be at least one link, not {links}")
    if not 0.0 < p <= 1.0:
        raise ConfigError(f"waiting: a success probability lies in 0..1 and above 0, not {p:g}")
    return float(p)


def sample_waits(rng: np.random.Generator, links: int, p: float, shots: int) -> Ints:
    """Draw slots until success, int64 of shape (shots, links); slots count from 1."""
    return rng.geometric(_checked(links, p), (shots, links))


def mean_wait(links: int, p: float) -> float:
    """Return the mean number of slots until all links are there.

    ``E[max] = sum_j C(n, j) (-1)^(j+1) / (1 - (1-p)^j)``, for two ``(3 - 2p)/(p (2 - p))``. The sum
    cancels badly beyond 30 links; the same number comes from the first slot, by how many links
    still wait after it: ``E_n = 1 + sum_k C(n, k) (1-p)^k p^(n-k) E_k``.
    """
    p = _checked(links, p)
    if p == 1.0:
        return 1.0
    waits: list[float] = [0.0]
    log_q, log_p = math.log1p(-p), math.log(p)
    for n in range(1, links + 1):
        still = (
            math.exp(
                math.lgamma(n + 1)
                - math.lgamma(k + 1)
                - math.lgamma(n - k + 1)
                + k * log_q
                + (n - k) * log_p
            )
            * waits[k]
            for k in range(1, n)
        )
        waits.append((1 + math.fsum(still)) / -math.expm1(n * log_q))
    return waits[links]


def wait_distribution(slots: npt.ArrayLike, links: int, p: float) -> Real:
    """Return the probability that all links are there after so many slots, same shape.

    ``[1 - (1-p)^t]^n``.
    """
    p = _checked(links, p)
    t = np.floor(np.maximum(np.asarray(slots, np.float64), 0))
    with np.errstate(divide="ignore", invalid="ignore"):
        silent = np.where(t > 0, np.exp(t * np.log1p(-p)), 1.0)
    return np.asarray((1 - silent) ** links)


def within_window(window: int, links: int, p: float) -> float:
    """Return the probability that all links come within so many slots of each other.

    ``[(1 - q^(w+1))^n - (q - q^(w+1))^n] / (1 - q^n)`` with q = 1 - p: whichever comes first, at
    any slot, all others come in the same or the w that follow. For two links it is
    ``1 - 2 (1-p)^(w+1)/(2 - p)``.
    """
    q = 1 - _checked(links, p)
    late = q ** (window + 1)
    return ((1 - late) ** links - (q - late) ** links) / (1 - q**links)


def mean_with_cutoff(window: int, p: float) -> float:
    """Return the mean slots until two links are there, none of them older than ``window``.

    A link that has waited ``window`` slots is dropped and both start again. Each round lasts
    ``1/(1 - q^2)`` slots until one comes, and unless both do, ``(1 - q^w)/p`` more; it succeeds
    with :func:`within_window`. (Wald's identity.)
    """
    q = 1 - _checked(2, p)
    one_first = 2 * q / (1 + q)
    lasts = 1 / (1 - q * q) + one_first * (1 - q**window) / p
    return lasts / within_window(window, 2, p)


def sample_with_cutoff(
    rng: np.random.Generator, window: int, p: float, shots: int
) -> tuple[Ints, Ints]:
    """Draw rounds with a cut-off until both of two links are there.

    Returns:
        Slots from the start, and age of the older link then; int64 of shape (shots,) each.
    """
    _checked(2, p)
    slots, ages = np.zeros(shots, np.int64), np.zeros(shots, np.int64)
    waiting = np.arange(shots)
    while waiting.size:
        first, last = np.sort(rng.geometric(p, (waiting.size, 2)), axis=1).T
        slots[waiting] += np.minimum(last, first + window)
        met = last - first <= window
        ages[waiting[met]] = (last - first)[met]
        waiting = waiting[~met]
    return slots, ages
