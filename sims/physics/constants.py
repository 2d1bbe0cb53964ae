"""Constants that several phenomena need, SI."""

from __future__ import annotations

import math

__all__ = ["C_M_PER_S", "FWHM", "H_J_S"]

C_M_PER_S = 299_792_458.0
H_J_S = 6.62607015e-34
#: Full width at half maximum of a Gaussian, in units of its standard deviation.
FWHM = 2 * math.sqrt(2 * math.log(2))
