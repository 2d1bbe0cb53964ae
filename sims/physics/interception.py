"""What an eavesdropper does to the light of a path."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["intercept_map"]


def intercept_map(fraction: float) -> npt.NDArray[np.float64]:
    """Return intercept-resend as a map of Stokes vectors (S0, S1, S2, S3), shape (4, 4).

    Of a share f of the photons each is measured in Z (H/V) or X (D/A), at random, and sent again
    as found. A measurement in Z keeps S1 alone, one in X S2 alone, so that their mean is
    ``diag(1, 1 - f/2, 1 - f/2, 1 - f)``: the error rises by f/4 in both bases (Bennett and
    Brassard 1984; Gisin et al., Rev. Mod. Phys. 74, 145 (2002), sec. VI).
    """
    return np.diag([1.0, 1 - fraction / 2, 1 - fraction / 2, 1 - fraction])
