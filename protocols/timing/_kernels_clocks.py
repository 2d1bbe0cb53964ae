"""Compiled inner loops of clock recovery. Import this module lazily: it loads numba."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from ...instruments.compiled import compiled
from ._kernels import Int64

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]


@compiled
def bin_counts(times: Int64, begin: int, width: int, counts: Float32) -> None:
    """Add each time to its bin of ``counts``; those outside are left out."""
    for time in times:
        step = time - begin
        if step >= 0:
            k = step // width
            if k < counts.size:
                counts[k] += np.float32(1)


@compiled
def _add(total: Float32, first: Float32, second: Float32, n: int) -> None:
    # A function of its own becomes vector instructions: 2.4 times faster.
    for x in range(n):
        total[x] = first[x] + second[x]


@compiled
def add_lines(rows: Float32, spare: Float32) -> Float32:
    """Sum rows (segments, lags) along straight lines: row d of the result has drifted by d lags.

    The tree of Taylor, Astron. Astrophys. Suppl. 15, 367 (1974): n log n additions for all
    drifts. ``segments`` is a power of 2; both arrays are overwritten.
    """
    segments, width = rows.shape
    size = 1
    while size < segments:
        for group in range(0, segments, 2 * size):
            for drift in range(2 * size):
                early = rows[group + drift // 2]
                late = rows[group + size + drift // 2]
                total = spare[group + drift]
                shift = (drift + 1) // 2
                _add(total, early, late[shift:], width - shift)
                total[width - shift :] = early[width - shift :]
        rows, spare = spare, rows
        size *= 2
    return rows


@compiled
def highest(rows: Float32, drifts: int, left: int, right: int, floor: float, out: Float64) -> None:
    """Per drift: the highest sum of one or two neighbours in [left, right), in sigma.

    ``out`` (drifts, 2) takes place and height. The rows have mean 0; sigma is their rms, or
    ``floor`` where they hold less.
    """
    half = np.float32(1 / math.sqrt(2.0))
    for drift in range(drifts):
        row = rows[drift]
        squares = 0.0
        best = np.float32(-1)
        place = float(left)
        for x in range(left, right):
            one = row[x]
            two = (one + row[x + 1]) * half
            squares += float(one) * float(one)
            if one > best or two > best:
                best = max(one, two)
                place = x + 0.5 * (two > one)
        out[drift, 0] = place
        out[drift, 1] = best / max(math.sqrt(squares / max(right - left, 1)), floor)


@compiled
def near_line(
    a: Int64,
    b: Int64,
    origin: int,
    base: int,
    offset: float,
    slope: float,
    reach: float,
    times: Float64,
    steps: Float64,
) -> int:
    """Find every pair within ``reach`` of the line base + offset + slope (a - origin).

    Writes a - origin and the distance from the line; returns how many there are, which may be
    more than the arrays hold.
    """
    low = 0
    found = 0
    for i in range(a.size):
        t = float(a[i] - origin)
        centre = offset + slope * t
        shifted = a[i] + base
        while low < b.size and float(b[low] - shifted) - centre < -reach:
            low += 1
        j = low
        while j < b.size:
            step = float(b[j] - shifted) - centre
            if step > reach:
                break
            if found < times.size:
                times[found] = t
                steps[found] = step
            found += 1
            j += 1
    return found


@compiled
def along(
    times: Int64, starts: Int64, ends: Int64, parts: Float64, ratio: Float64, moved: Int64
) -> None:
    """Move times along straight lines between knots, in order; ``ends + parts`` to ``starts``."""
    k, last = 0, ratio.size - 1
    for i in range(times.size):
        time = times[i]
        while k < last and time >= ends[k + 1]:
            k += 1
        while k > 0 and time < ends[k]:
            k -= 1
        moved[i] = starts[k] + np.int64(np.rint((float(time - ends[k]) - parts[k]) * ratio[k]))


@compiled
def zoom(
    times: Float64, steps: Float64, slopes: Float64, left: float, width: float, counts: Int64
) -> None:
    """Histogram the distances from lines of several slopes: counts (slopes, bins)."""
    bins = counts.shape[1]
    for i in range(times.size):
        start = (steps[i] - left) / width
        scaled = times[i] / width
        for k in range(slopes.size):
            place = start - slopes[k] * scaled
            if 0 <= place < bins:
                counts[k, int(place)] += 1


@compiled
def measure(
    times: Float64, steps: Float64, ground: float, sigma: float, spread: float, reach: float
) -> tuple[float, float, float, float, float, float]:
    """Fit the place of a Gaussian peak of known width on a flat ground, by likelihood.

    Args:
        times: When, any unit.
        steps: Distances, within +-reach.
        ground: Density of the ground, per unit of distance.
        sigma: Width of the peak.
        spread: Uncertainty of its place; the search begins that wide.
        reach: Half width of the window.

    Returns:
        Place, its variance, pairs in the peak, 2 ln(likelihood ratio) against no peak, mean time
        of its pairs, variance of the peak.
    """
    n = steps.size
    ground = max(ground, 1e-12)
    peak = max(n - 2 * reach * ground, 1.0)
    place = 0.0
    wide = sigma * sigma + spread * spread
    total, when, second, curve, ratio = 0.0, 0.0, 0.0, 0.0, 0.0
    for turn in range(60):
        scale = peak / math.sqrt(2 * math.pi * wide)
        total, first, second, when, curve, ratio = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
        for i in range(n):
            step = steps[i] - place
            height = scale * math.exp(-0.5 * step * step / wide)
            share = height / (height + ground)
            total += share
            first += share * step
            second += share * step * step
            when += share * times[i]
            curve += share / wide - share * (1 - share) * step * step / (wide * wide)
            ratio += math.log(1 + height / ground)
        if total < 1e-6:
            return 0.0, math.inf, 0.0, 0.0, 0.0, wide
        shift = first / total
        last = wide <= sigma * sigma * 1.001
        if last and turn > 3 and abs(shift) < 1e-3 * sigma:
            break
        place += shift
        peak = max(total, 0.5)
        wide = max(sigma * sigma, 0.5 * wide)
    curve = max(curve, 0.2 * total / wide)
    return place, 1 / curve, total, 2 * (ratio - total), when / total, second / total


@compiled
def likeliest(
    times: Float64, steps: Float64, reach: float, sigma: float, ground: float, out: Float64
) -> bool:
    """Fit a line with Gaussian scatter on a flat ground; False where nothing stands out.

    ``out`` takes offset, slope, width, pairs in the peak and density of the ground.
    """
    n = steps.size
    share = max(n - 2 * reach * ground, 3.0)
    scale = 1.0
    for i in range(n):
        scale = max(scale, abs(times[i]))
    offset, slope = 0.0, 0.0
    for _ in range(60):
        height = share / (sigma * math.sqrt(2 * math.pi))
        total, s1, s2, r0, r1, rr = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
        for i in range(n):
            rest = steps[i] - offset - slope * times[i]
            far = rest / sigma
            if abs(far) > 9:
                continue
            peak = height * math.exp(-0.5 * far * far)
            weight = peak / (peak + ground)
            t = times[i] / scale
            total += weight
            s1 += weight * t
            s2 += weight * t * t
            r0 += weight * rest
            r1 += weight * rest * t
            rr += weight * rest * rest
        share = total
        if share < 3:
            return False
        determinant = share * s2 - s1 * s1
        if determinant <= 1e-9 * share * share:
            return False
        shift = (s2 * r0 - s1 * r1) / determinant
        turn = (share * r1 - s1 * r0) / determinant
        offset += shift
        slope += turn / scale
        new = math.sqrt(max(rr / share, 1.0))
        done = abs(shift) + abs(turn) < 1e-3 * sigma and abs(new - sigma) < 1e-3 * sigma
        sigma = min(new, reach / 3)
        ground = max((n - share) / (2 * reach), 0.1 / reach)
        if done:
            break
    out[0], out[1], out[2], out[3], out[4] = offset, slope, sigma, share, ground
    return True
