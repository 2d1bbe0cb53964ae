"""Entanglement of two matter qubits from the clicks of a Bell station and of their read-outs.

Nodes make attempts in trains, in step with each other. A station's clicks in an attempt herald Psi+
or Psi-; fluorescence in a node's read-out says that its spin was |1>. By read-outs along Z, X
and Y the correlations follow, and with them the fidelity ``(1 - <ZZ> +- (<XX> + <YY>))/4``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..instruments import ProtocolError
from .estimates import Estimate

__all__ = [
    "AXES",
    "LABELS",
    "Readout",
    "Train",
    "correlation",
    "fidelity",
    "find_start",
    "heralds",
    "shown",
]

Times = npt.NDArray[np.int64]
Bits = npt.NDArray[np.bool_]

AXES = ("Z", "X", "Y")
#: Heralded states, in order.
LABELS = ("psi+", "psi-")

_BIN_PS = 5_000


@dataclass(frozen=True)
class Train:
    """Attempts in trains.

    Attributes:
        begin_ps: Beginning of a train.
        train_ps: From one train to the next.
        period_ps: From one attempt to the next.
        attempts: In a train.
    """

    begin_ps: int
    train_ps: int
    period_ps: int
    attempts: int

    def phase(self, times_ps: Times) -> Times:
        """Return how long after the beginning of its attempt each click came, ps."""
        within: Times = (times_ps - self.begin_ps) % self.train_ps
        late: Times = within % self.period_ps
        return late[within < self.attempts * self.period_ps]

    def clicked(self, times_ps: Times, start_ps: int, window_ps: int, trains: int) -> Bits:
        """Return which attempts have a click in a window, bool (trains * attempts,).

        Args:
            times_ps: Clicks.
            start_ps: Beginning of the window after that of the attempt.
            window_ps: Its length.
            trains: How many trains to look at, from the one at ``begin_ps``.
        """
        train, within = np.divmod(times_ps - self.begin_ps - start_ps, self.train_ps)
        attempt, late = np.divmod(within, self.period_ps)
        fits = (train >= 0) & (train < trains) & (attempt < self.attempts) & (late < window_ps)
        found = np.zeros(trains * self.attempts, np.bool_)
        found[(train * self.attempts + attempt)[fits]] = True
        return found


def find_start(train: Train, times_ps: Times, window_ps: int) -> int:
    """Return where the window of so long begins that holds most clicks, after the attempt's start.

    To 5 ns; some of that ahead of the clicks, so that the first one is in.

    Raises:
        ProtocolError: where clicks show no time at which they come.
    """
    bins = max(1, train.period_ps // _BIN_PS)
    fold = np.bincount(train.phase(times_ps) // _BIN_PS, minlength=bins)[:bins]
    wide = max(1, window_ps // _BIN_PS)
    total = np.cumsum(np.concatenate([[0], fold, fold[:wide]]))
    within = total[wide:] - total[:-wide]
    best = int(np.argmax(within[:bins]))
    mean = fold.sum() * wide / bins
    if within[best] < mean + 6 * math.sqrt(mean + 1):
        raise ProtocolError("clicks come at any time of an attempt: is the light blocked?")
    return best * _BIN_PS - _BIN_PS


def heralds(seen: Mapping[str, Bits], clicks: int) -> dict[str, Bits]:
    """Return which attempts herald which state.

    Args:
        seen: Clicks of the station's cH, cV, dH, dV by attempt.
        clicks: 1: of cH and dH exactly one clicks, for photons that are there or not
            (Cabrillo et al., PRA 59, 1025 (1999)); 2: one H and one V, for photons of two
            polarizations (Barrett and Kok, PRA 71, 060310 (2005)).
    """
    c_h, c_v, d_h, d_v = (seen[name] for name in ("cH", "cV", "dH", "dV"))
    if clicks == 1:
        return {"psi+": c_h & ~d_h, "psi-": d_h & ~c_h}
    two = c_h.astype(int) + c_v + d_h + d_v == 2
    return {
        "psi+": two & ((c_h & c_v) | (d_h & d_v)),
        "psi-": two & ((c_h & d_v) | (c_v & d_h)),
    }


@dataclass(frozen=True)
class Readout:
    """Errors of a node's read-out.

    Attributes:
        false: Chance that |0> is taken for |1>.
        missed: Chance that |1> is taken for |0>.
    """

    false: Estimate
    missed: Estimate


def shown(first: Bits, second: Bits, chosen: Bits) -> npt.NDArray[np.int64]:
    """Count read-outs of two spins, (2, 2), by whether each is bright, of the attempts chosen."""
    code = 2 * first[chosen].astype(np.int64) + second[chosen]
    return np.bincount(code, minlength=4).reshape(2, 2)


def correlation(
    counts: npt.NDArray[np.int64], errors: tuple[Readout, Readout] | None = None
) -> Estimate:
    """Return the correlation of two spins, |0> counted +1 and |1> -1.

    Args:
        counts: By whether each is bright, (2, 2).
        errors: Of both read-outs, to be taken out; their own uncertainties are not counted.
    """
    total = int(counts.sum())
    if not total:
        return Estimate(math.nan, math.nan)
    weights = np.array([[1.0, -1.0], [-1.0, 1.0]])
    if errors is not None:
        one, two = (
            np.linalg.inv(
                np.array(
                    [
                        [1 - e.false.value, e.missed.value],
                        [e.false.value, 1 - e.missed.value],
                    ]
                )
            )
            for e in errors
        )
        weights = one.T @ weights @ two
    share = counts / total
    mean = float((weights * share).sum())
    variance = float((weights**2 * share).sum()) - mean**2
    # One count more in doubt: a correlation never seen to fail is not known exactly.
    sigma = math.sqrt(max(variance, 1.0 / total) / total)
    return Estimate(mean, sigma, total)


def fidelity(label: str, correlations: Mapping[str, Estimate]) -> Estimate:
    """Return the fidelity with the heralded state from the correlations along Z, X and Y."""
    sign = 1 if label == "psi+" else -1
    z, x, y = (correlations[axis] for axis in AXES)
    value = (1 - z.value + sign * (x.value + y.value)) / 4
    sigma = math.sqrt(z.sigma**2 + x.sigma**2 + y.sigma**2) / 4
    return Estimate(value, sigma, min(z.n, x.n, y.n))
