"""The pictures a run leaves behind; matplotlib without global state."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from .gallery import Comparison
    from .protocols.calibration import BiasResult, PhaseMatchingResult, PolarizationResult
    from .protocols.estimates import Estimate
    from .protocols.heralding import DecayFit
    from .protocols.qkd.link_model import CwLink
    from .protocols.qkd.mdi_link import RelayGains
    from .protocols.swapping import HomDip

__all__ = [
    "plot_arrivals",
    "plot_bias",
    "plot_chsh",
    "plot_clock",
    "plot_coincidence_matrix",
    "plot_decoys",
    "plot_delay_histogram",
    "plot_drift",
    "plot_gallery",
    "plot_hom_dip",
    "plot_key_against_pairs",
    "plot_mdi",
    "plot_phase_matching",
    "plot_polarization",
    "plot_pump",
    "plot_qber",
    "plot_spin_correlations",
    "plot_swap_correlations",
]

_DPI = 150


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def plot_delay_histogram(
    path: Path,
    delays_ps: npt.NDArray[Any],
    counts: npt.NDArray[Any],
    *,
    window_ps: float,
    seconds: float,
    title: str,
) -> None:
    """Coincidences against the delay between the parties, with the window that is used.

    Args:
        path: PNG to write.
        delays_ps: Centre of each bin, ps, after the delays found were taken away.
        counts: Coincidences per bin.
        window_ps: Coincidence window, full width.
        seconds: Length of the data.
        title: What it is of.
    """
    figure, axes = _figure(6.4, 4.0)
    width = float(delays_ps[1] - delays_ps[0])
    # the unit in which the axis reads best: a TDC1 spans ns, an ID900 ps
    scale, unit = (1e-3, "ns") if abs(float(delays_ps[0])) > 3000 else (1.0, "ps")
    axes.step(delays_ps * scale, counts, where="mid", color="C0", linewidth=1.2)
    axes.fill_between(delays_ps * scale, counts, step="mid", color="C0", alpha=0.25)
    half = window_ps / 2 * scale
    axes.axvspan(-half, half, color="C1", alpha=0.15, linewidth=0)
    axes.annotate(
        f"window\n{window_ps * scale:g} {unit}",
        (half, 0.96),
        xycoords=("data", "axes fraction"),
        xytext=(5, 0),
        textcoords="offset points",
        va="top",
        color="C1",
        fontsize=9,
    )
    width_text = _fwhm(delays_ps, counts)
    if width_text is not None:
        axes.annotate(
            f"FWHM {width_text * scale:.3g} {unit}",
            (0.02, 0.96),
            xycoords="axes fraction",
            va="top",
            fontsize=9,
        )
    axes.set_xlim(delays_ps[0] * scale, delays_ps[-1] * scale)
    axes.set_ylim(bottom=0)
    axes.set_xlabel(f"delay Bob − Alice ({unit})")
    axes.set_ylabel(f"coincidences per {width * scale:g} {unit} in {seconds:g} s")
    axes.set_title(title, loc="left", fontsize=10)
    figure.savefig(path)


def _fwhm(x: npt.NDArray[Any], y: npt.NDArray[Any]) -> float | None:
    """Full width at half maximum above the median, by linear interpolation; None without a peak."""
    level = float(np.median(y))
    top = int(np.argmax(y))
    half = (float(y[top]) + level) / 2
    if y[top] < level + 5 * np.sqrt(level + 1):
        return None
    left, right = top, top
    while left > 0 and y[left] > half:
        left -= 1
    while right < y.size - 1 and y[right] > half:
        right += 1
    if y[left] > half or y[right] > half:
        return None
    x_left = np.interp(half, [y[left], y[left + 1]], [x[left], x[left + 1]])
    x_right = np.interp(half, [y[right], y[right - 1]], [x[right], x[right - 1]])
    return float(x_right - x_left)


def plot_coincidence_matrix(
    path: Path,
    counts: npt.NDArray[Any],
    *,
    labels: Sequence[str],
    names: tuple[str, str],
    title: str,
) -> None:
    """Coincidences for each pair of detectors.

    Args:
        path: PNG to write.
        counts: Shape (n, n); row: first party's detector, column: second party's.
        labels: Name of each detector.
        names: The parties.
        title: What it is of.
    """
    figure, axes = _figure(4.8, 4.4)
    image = axes.imshow(counts, cmap="Blues", vmin=0)
    bright = counts > counts.max() * 0.6
    for (i, j), count in np.ndenumerate(counts):
        color = "white" if bright[i, j] else "black"
        axes.text(j, i, f"{count:,}", ha="center", va="center", fontsize=9, color=color)
    axes.set_xticks(range(len(labels)), labels)
    axes.set_yticks(range(len(labels)), labels)
    axes.set_xlabel(f"{names[1]}'s detector")
    axes.set_ylabel(f"{names[0]}'s detector")
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.tick_params(length=0)
    figure.colorbar(image, ax=axes, shrink=0.85, label="coincidences")
    axes.set_title(title, loc="left", fontsize=10)
    figure.savefig(path)


def plot_chsh(
    path: Path,
    correlations: Sequence[Mapping[str, Any]],
    chsh: Mapping[str, float],
    *,
    title: str,
) -> None:
    """Correlations of E91 over the angle between the analyzers, with the cosine that S makes.

    Args:
        path: PNG to write.
        correlations: Directions of ``alice`` and ``bob`` in deg, ``value`` and ``sigma`` of each.
        chsh: ``value`` and ``sigma`` of S.
        title: What it is of.
    """
    figure, axes = _figure(6.4, 4.0)
    amplitude = chsh["value"] / (2 * np.sqrt(2))
    angles = np.linspace(-75, 75, 301)
    axes.axhline(0, color="0.8", linewidth=0.8)
    axes.plot(
        angles,
        amplitude * np.cos(np.radians(2 * angles)),
        color="0.4",
        linewidth=1,
        label=f"{amplitude:.3f} cos 2(b - a)",
    )
    for color, first, words in (("C0", True, "alice at home"), ("C1", False, "bob at home")):
        seen = [one for one in correlations if (one["alice"] in ("0", "45")) == first]
        axes.errorbar(
            [float(one["bob"]) - float(one["alice"]) + (0.8 if first else -0.8) for one in seen],
            [one["value"] for one in seen],
            yerr=[one["sigma"] for one in seen],
            fmt="o",
            markersize=4,
            capsize=2,
            color=color,
            label=words,
        )
    axes.set_xlabel("angle between the analyzers, b - a (deg)")
    axes.set_xticks(np.arange(-67.5, 68, 22.5))
    axes.set_ylabel("correlation E")
    axes.set_ylim(-1.05, 1.05)
    axes.legend(
        frameon=False,
        fontsize=9,
        loc="lower center",
        title=f"S = {chsh['value']:.3f} +- {chsh['sigma']:.3f}",
    )
    axes.set_title(title, loc="left", fontsize=10)
    figure.savefig(path)


def plot_clock(
    path: Path,
    times_s: npt.NDArray[Any],
    offsets_ps: npt.NDArray[Any],
    frequencies: npt.NDArray[Any],
    jitters_ps: npt.NDArray[Any],
    *,
    begin_s: float,
    title: str,
) -> None:
    """What became of a clock that is followed: frequency, offset and width of the peak over time.

    Where it was not seen the lines are broken.

    Args:
        path: PNG to write.
        times_s: When it was looked at, s, shape (n,).
        offsets_ps: Its offset, less a straight line.
        frequencies: By how much it runs fast.
        jitters_ps: Rms width of the coincidence peak.
        begin_s: When the exchange began; before lies the calibration.
        title: What it is of.
    """
    steps = np.diff(times_s)
    gaps = 1 + np.flatnonzero(steps > 10 * np.median(steps)) if steps.size else np.zeros(0, np.intp)
    times_s = np.insert(times_s, gaps, np.nan)
    figure, only = _figure(6.4, 5.2)
    only.remove()
    axes = [figure.add_subplot(3, 1, k) for k in (1, 2, 3)]
    for ax, values, label in zip(
        axes,
        (1e6 * frequencies, 1e-3 * offsets_ps, jitters_ps),
        ("frequency (ppm)", "offset less a line (ns)", "jitter, rms (ps)"),
        strict=True,
    ):
        ax.plot(
            times_s,
            np.insert(values, gaps, np.nan),
            ".-",
            markersize=2,
            linewidth=0.8,
            color="C0",
        )
        ax.axvspan(0, begin_s, color="0.93", lw=0)
        ax.spines[["top", "right"]].set_visible(False)
        ax.set_ylabel(label)
        ax.ticklabel_format(axis="y", useOffset=False)
    axes[-1].set_ylim(bottom=0)
    axes[-1].set_xlabel("time (s); the calibration in grey")
    axes[0].set_title(title)
    figure.align_ylabels(axes)
    figure.savefig(path)


def plot_qber(
    path: Path,
    times_s: npt.NDArray[Any],
    errors: Mapping[str, npt.NDArray[Any]],
    bits: Mapping[str, npt.NDArray[Any]],
    *,
    tolerance: float,
    title: str,
) -> None:
    """Error rate over time, one line per basis, with the tolerance of the key.

    Args:
        path: PNG to write.
        times_s: Middle of each interval, s.
        errors: Errors among the revealed bits of each interval, by basis.
        bits: Revealed bits of each interval, by basis.
        tolerance: Error rate above which there is no key.
        title: What it is of.
    """
    figure, axes = _figure(6.4, 4.0)
    top = tolerance
    for color, basis in zip(("C0", "C3"), errors, strict=False):
        n = bits[basis]
        seen = n > 0
        rate = errors[basis][seen] / n[seen]
        # Agresti-Coull: an interval without errors is not known without error
        padded = (errors[basis][seen] + 2) / (n[seen] + 4)
        sigma = np.sqrt(padded * (1 - padded) / (n[seen] + 4))
        axes.errorbar(
            times_s[seen],
            100 * rate,
            yerr=100 * sigma,
            fmt="o-",
            markersize=3.5,
            linewidth=1,
            capsize=2,
            color=color,
            label=f"{basis} basis",
        )
        if rate.size:
            top = max(top, float((rate + sigma).max()))
    axes.axhline(100 * tolerance, color="0.4", linestyle="--", linewidth=1)
    axes.annotate(
        f"tolerance {100 * tolerance:g} %",
        (1, 100 * tolerance),
        xycoords=("axes fraction", "data"),
        xytext=(0, 3),
        textcoords="offset points",
        ha="right",
        fontsize=9,
        color="0.3",
    )
    axes.set_ylim(0, 100 * top * 1.2)
    axes.set_xlabel("time in the exchange (s)")
    axes.set_ylabel("QBER of revealed bits (%)")
    axes.legend(frameon=False, loc="upper left")
    axes.set_title(title, loc="left", fontsize=10)
    figure.savefig(path)


def plot_decoys(
    path: Path,
    photons: npt.NDArray[Any],
    sent: npt.NDArray[Any],
    detected: npt.NDArray[Any],
    compared: npt.NDArray[Any],
    wrong: npt.NDArray[Any],
    closed: tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]],
    *,
    names: Sequence[str],
    title: str,
) -> None:
    """Gain and error of each intensity of a weak coherent source, with the closed form.

    Args:
        path: PNG to write.
        photons: Mean photon numbers, decreasing.
        sent: Pulses of each intensity.
        detected: Of these, detected in whatever basis.
        compared: Bits of each intensity that were compared.
        wrong: Errors among these.
        closed: Mean photon numbers, gains and errors of the closed form.
        names: Of the intensities.
        title: What it is of.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    gain, rate = detected / sent, wrong / np.maximum(compared, 1)
    x, closed_gain, closed_error = closed
    figure = Figure(figsize=(7.2, 3.6), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    left.errorbar(photons, gain, yerr=np.sqrt(detected + 1) / sent, fmt="o", color="C0")
    left.plot(x, closed_gain, color="C0", linewidth=1)
    left.set_yscale("log")
    left.set_ylabel("gain")
    seen = compared > 0
    sigma = np.sqrt((rate[seen] + 1 / compared[seen]) / compared[seen])
    right.errorbar(
        photons[seen], 100 * rate[seen], yerr=100 * sigma, fmt="o", capsize=2, color="C3"
    )
    right.plot(x, 100 * closed_error, color="C3", linewidth=1)
    right.set_ylabel("error of the test basis (%)")
    right.set_ylim(bottom=0)
    for axes in (left, right):
        axes.set_xscale("log")
        axes.set_xlabel("mean photon number")
        axes.spines[["top", "right"]].set_visible(False)
    for name, mu, q in zip(names, photons, gain, strict=True):
        left.annotate(
            name, (mu, q), xytext=(6, -10), textcoords="offset points", fontsize=9, color="0.3"
        )
    figure.suptitle(title, x=0.01, ha="left", fontsize=10)
    figure.savefig(path)


def plot_phase_matching(path: Path, found: PhaseMatchingResult) -> None:
    """Clicks against the crystal's temperature, with the fit and its optimum.

    Args:
        path: PNG to write.
        found: An ok result.
    """
    from .protocols.calibration.phase_matching import sinc2

    figure, axes = _figure(6.4, 4.0)
    x, scale = found.set_points_c, 1e-3
    axes.errorbar(
        x, found.rates_hz * scale, yerr=found.sigmas_hz * scale, fmt="o", markersize=4, color="C0"
    )
    fine = np.linspace(x[0], x[-1], 400)
    axes.plot(fine, sinc2(fine, *found.model) * scale, color="C0", linewidth=1, label="sinc² fit")
    axes.axvline(
        found.optimum_c,
        color="C1",
        linewidth=1,
        label=f"{found.optimum_c:.3f} ± {found.sigma_c:.3f} °C\nFWHM {found.fwhm_k:.2f} K",
    )
    axes.set_ylim(0, 1.2 * float(found.rates_hz.max()) * scale)
    axes.set_xlabel("set point of the crystal's temperature (°C)")
    axes.set_ylabel("clicks of all parties (kcps)")
    axes.legend(frameon=False, loc="upper left", fontsize=9)
    axes.set_title("phase matching", loc="left", fontsize=10)
    figure.savefig(path)


def plot_bias(path: Path, found: BiasResult, *, title: str) -> None:
    """Net and dark counts of each detector against its bias, with the operating points.

    Args:
        path: PNG to write.
        found: An ok result.
        title: What it is of.
    """
    from .protocols.calibration.bias import plateau

    figure, axes = _figure(6.4, 4.4)
    for i, scan in enumerate(found.scans):
        color, micro = f"C{i}", scan.currents_a * 1e6
        net = np.maximum(scan.light_hz - scan.dark_counts_hz, 0.1)
        axes.plot(micro, net, "o", markersize=3.5, color=color, label=f"detector {i + 1}")
        fine = np.linspace(scan.currents_a[0], scan.currents_a[-1], 300)
        axes.plot(fine * 1e6, np.maximum(plateau(fine, *scan.model), 0.1), color=color, linewidth=1)
        axes.plot(micro, np.maximum(scan.dark_counts_hz, 0.1), "x", markersize=4, color=color)
        axes.axvline(scan.bias_a * 1e6, color=color, linewidth=1, linestyle="--")
    axes.set_yscale("log")
    axes.set_ylim(bottom=1)
    axes.set_xlabel("bias current (µA); dashed: operating points")
    axes.set_ylabel("counts (Hz): ● light less dark, × dark")
    axes.legend(frameon=False, loc="upper left", fontsize=9)
    axes.set_title(title, loc="left", fontsize=10)
    figure.savefig(path)


def plot_polarization(path: Path, found: PolarizationResult, *, title: str) -> None:
    """QBER at the minimum along each paddle, in the order in which they took turns.

    Args:
        path: PNG to write.
        found: An ok result.
        title: What it is of.
    """
    figure, axes = _figure(6.4, 4.0)
    value, error = 100 * found.minima.T
    turns = np.arange(1, value.size + 1)
    axes.errorbar(
        turns,
        np.maximum(value, 0.01),  # a fit may dip below zero by its noise
        yerr=error,
        fmt="o-",
        markersize=3.5,
        linewidth=0.8,
        capsize=2,
        color="C0",
        label="minimum along one paddle (mean of Z and X)",
    )
    axes.axhline(
        100 * found.qber,
        color="C1",
        linestyle="--",
        linewidth=1,
        label=f"residual {100 * found.qber:.2f} ± {100 * found.qber_sigma:.2f} %"
        f" (Z {100 * found.qber_z:.2f} %, X {100 * found.qber_x:.2f} %)",
    )
    axes.set_yscale("log")
    axes.set_ylim(max(0.1, 40 * found.qber), 5 * max(float(value.max()), 100 * found.qber))
    axes.set_xlabel("turns of a paddle")
    axes.set_ylabel("QBER (%)")
    axes.legend(frameon=False, loc="upper right", fontsize=9)
    axes.set_title(title, loc="left", fontsize=10)
    figure.savefig(path)


def plot_hom_dip(path: Path, found: HomDip, *, seconds: float, title: str) -> None:
    """Coincidences against the pump delay, with the fitted dip where there is one.

    Args:
        path: PNG to write.
        found: Scan and fit.
        seconds: Time at each delay.
        title: What it is of.
    """
    figure, axes = _figure(6.4, 4.0)
    x, nano = found.delays_s * 1e9, 1e9
    axes.errorbar(
        x,
        found.counts,
        yerr=np.sqrt(np.maximum(found.counts, 1)),
        fmt="o",
        markersize=4,
        capsize=2,
        color="C0",
    )
    if found.ok:
        v, centre, width = found.visibility, found.centre_s, found.fwhm_s
        fine = np.linspace(found.delays_s[0], found.delays_s[-1], 400)
        axes.plot(
            fine * nano,
            found.model(fine),
            color="C0",
            linewidth=1,
            label=f"visibility {100 * v.value:.1f} ± {100 * v.sigma:.1f} %\n"
            f"FWHM {1e12 * width.value:.0f} ± {1e12 * width.sigma:.0f} ps",
        )
        axes.axvline(
            centre.value * nano,
            color="C1",
            linewidth=1,
            label=f"{centre.value * nano:.3f} ± {centre.sigma * nano:.3f} ns",
        )
        axes.legend(frameon=False, loc="lower right", fontsize=9)
    axes.set_ylim(0, 1.15 * max(float(found.counts.max()), 1.0))
    axes.set_xlabel("pump delay of the east source (ns)")
    axes.set_ylabel(f"same polarization, both outputs: counts in {seconds:g} s")
    axes.set_title(title, loc="left", fontsize=10)
    figure.savefig(path)


def plot_swap_correlations(
    path: Path, fourfolds: Mapping[str, npt.NDArray[Any]], *, title: str
) -> None:
    """Correlation of the ends in each pair of bases, by heralded Bell state.

    Args:
        path: PNG to write.
        fourfolds: int64 (2, 4, 4) by analyzer setting: label, alice, bob.
        title: What it is of.
    """
    from .protocols.swapping import BELL_LABELS, BELL_TENSORS, SETTINGS, Tally

    figure, axes = _figure(8.0, 4.2)
    ticks: list[str] = []
    for name, counts in fourfolds.items():
        setting = SETTINGS[name]
        alice, bob = setting.directions
        words = [[_basis(end.hv), _basis(end.da)] for end in (setting.alice, setting.bob)]
        for i, j in np.ndindex(2, 2):
            place = len(ticks) + 0.6 * list(fourfolds).index(name)
            ticks.append(f"{words[0][i]}{words[1][j]}")
            for k, label in enumerate(BELL_LABELS):
                block = counts[k, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2]
                seen = Tally(int(np.trace(block)), int(block.sum())).estimate
                x = place + (k - 0.5) * 0.36
                if seen.n:
                    axes.bar(
                        x,
                        seen.value,
                        0.34,
                        yerr=seen.sigma,
                        color=f"C{k}",
                        ecolor="0.2",
                        capsize=2,
                        label=_ket(label) if len(ticks) == 1 else None,
                    )
                ideal = float(alice[i] @ (np.array(BELL_TENSORS[label]) * bob[j]))
                axes.plot(
                    [x - 0.17, x + 0.17],
                    [ideal, ideal],
                    color="k",
                    linewidth=1.2,
                    label="ideal" if len(ticks) == 1 and k else None,
                )
        axes.annotate(
            name, (place - 1.5, 1.06), ha="center", fontsize=9, color="0.3", annotation_clip=False
        )
    places = [n + 0.6 * (n // 4) for n in range(len(ticks))]
    axes.set_xticks(places, ticks)
    axes.axhline(0, color="0.6", linewidth=0.8)
    axes.set_ylim(-1.2, 1.2)
    axes.set_xlabel("bases of Alice and Bob")
    axes.set_ylabel("correlation")
    axes.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    axes.set_title(title, loc="left", fontsize=10)
    figure.savefig(path)


def plot_spin_correlations(
    path: Path, found: Mapping[str, Mapping[str, Estimate]], *, title: str
) -> None:
    """Correlations of two spins along Z, X and Y, by heralded Bell state.

    Args:
        path: PNG to write.
        found: By state, ``psi+`` and ``psi-``, then by axis.
        title: What it is of.
    """
    figure, axes = _figure(6.0, 3.6)
    ideal = {"Z": (-1, -1), "X": (1, -1), "Y": (1, -1)}
    for k, (label, by_axis) in enumerate(found.items()):
        for n, (axis, seen) in enumerate(by_axis.items()):
            x = n + (k - 0.5) * 0.36
            if seen.n:
                axes.bar(
                    x, seen.value, 0.34, yerr=seen.sigma, color=f"C{k}", ecolor="0.2", capsize=2,
                    label=None if n else _ket(label),
                )  # fmt: skip
            axes.plot([x - 0.17, x + 0.17], [ideal[axis][k]] * 2, color="k", linewidth=1.2)
    axes.set_xticks(range(len(ideal)), [2 * axis for axis in ideal])
    axes.axhline(0, color="0.6", linewidth=0.8)
    axes.set_ylim(-1.2, 1.2)
    axes.set_ylabel("correlation; lines: ideal")
    axes.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    axes.set_title(title, loc="left", fontsize=10)
    figure.savefig(path)


def _basis(direction: Sequence[float]) -> str:
    """Name of the axis of the Poincare sphere nearest to a direction, primed where it is not on it.

    Bob's of a CHSH test lie half way: the one between Z and X is Z′, that between -Z and X is X′.
    """
    z, x, y = direction
    if max(map(abs, direction)) > 1 - 1e-6:
        return "ZXY"[int(np.argmax(np.abs([z, x, y])))]
    return "Z′" if z > 0 else "X′"


def _ket(label: str) -> str:
    """A Bell label as a person writes it."""
    return {"psi-": "Ψ⁻ heralded", "psi+": "Ψ⁺ heralded"}[label]


def plot_pump(
    path: Path,
    pumps: Sequence[Mapping[str, Any]],
    line: Mapping[str, Any] | None,
    *,
    title: str,
) -> None:
    """Swapped visibility and share of false heralds against the pairs per pulse.

    Args:
        path: PNG to write.
        pumps: ``pairs_per_pulse`` of both sources, ``visibility`` by axis, ``empty_share``.
        line: Fitted ``value`` and ``slope`` by axis; None without.
        title: What it is of.
    """
    figure, axes = _figure(6.4, 4.2)
    pairs = np.array([sum(p["pairs_per_pulse"].values()) / 2 for p in pumps])
    fine = np.array([0.0, 1.08 * pairs.max()])
    for color, axis in (("C0", "Z"), ("C3", "X")):
        _estimates(axes, pairs, [p["visibility"][axis] for p in pumps], color, f"visibility {axis}")
        if line is not None:
            axes.plot(
                fine,
                100 * (line[axis]["value"] + line[axis]["slope"] * fine),
                color=color,
                linewidth=1,
                linestyle="--",
            )
    empty = [p["empty_share"]["any"] for p in pumps]
    _estimates(axes, pairs, empty, "0.4", "heralds empty on a side", marker="s")
    axes.set_xlim(0.0, float(fine[1]))
    axes.set_ylim(0, 105)
    axes.set_xlabel("mean pairs per pulse and source")
    axes.set_ylabel("%")
    axes.legend(frameon=False, fontsize=9, loc="lower left")
    axes.set_title(title, loc="left", fontsize=10)
    figure.savefig(path)


def _estimates(
    axes: Axes,
    x: npt.NDArray[Any],
    values: Sequence[Mapping[str, float] | None],
    color: str,
    label: str,
    marker: str = "o",
) -> None:
    """Points with errors, in percent; what is not known is left out."""
    known = [(at, v) for at, v in zip(x.tolist(), values, strict=True) if v is not None]
    axes.errorbar(
        [at for at, _ in known],
        [100 * v["value"] for _, v in known],
        yerr=[100 * v["sigma"] for _, v in known],
        fmt=marker,
        markersize=4,
        capsize=2,
        color=color,
        label=label,
    )


def plot_arrivals(
    path: Path,
    delays_ps: npt.NDArray[Any],
    settings: Sequence[tuple[str, float, npt.NDArray[Any]]],
    *,
    echo_s: float,
    title: str,
) -> None:
    """Clicks behind a memory against the time after their herald, one line per setting.

    Args:
        path: PNG to write.
        delays_ps: Middle of each bin, ps, 0 where a photon comes that the memory lets pass.
        settings: Name, storage time, s, and clicks per herald and bin.
        echo_s: When the echo comes, s; 0 for none.
        title: What it is of.
    """
    figure, axes = _figure(7.2, 4.2)
    width_ns = float(delays_ps[1] - delays_ps[0]) * 1e-3
    colors = _colors(len(settings))
    for color, (label, storage_s, clicks) in zip(colors, settings, strict=True):
        seen = np.where(clicks > 0, clicks, np.nan)
        axes.plot(delays_ps * 1e-6, seen, color=color, linewidth=0.8, label=label)
        top = int(np.argmin(np.abs(delays_ps - storage_s * 1e12)))
        axes.plot(delays_ps[top] * 1e-6, seen[top], "o", markersize=4, color=color)
    marks = {"prompt": 0.0} | ({"echo": echo_s} if echo_s else {})
    for word, at_s in marks.items():
        axes.axvline(at_s * 1e6, color="0.6", linewidth=0.8, linestyle=":")
        axes.annotate(
            word,
            (at_s * 1e6, 1),
            xycoords=("data", "axes fraction"),
            xytext=(3, -2),
            textcoords="offset points",
            va="top",
            fontsize=8,
            color="0.4",
        )
    axes.set_yscale("log")
    axes.set_xlim(delays_ps[0] * 1e-6, delays_ps[-1] * 1e-6)
    axes.set_xlabel("delay after the herald, less that of the prompt click (µs)")
    axes.set_ylabel(f"clicks per herald and {width_ns:g} ns")
    axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    axes.set_title(title, loc="left", fontsize=10)
    figure.savefig(path)


def plot_storage(
    path: Path,
    found: Sequence[tuple[float, float, float]],
    *,
    echo: tuple[float, float, float] | None,
    fit: DecayFit | None,
    model: Sequence[tuple[float, float]],
    title: str,
) -> None:
    """Efficiency of a memory against the storage time, with the fitted decay.

    Args:
        path: PNG to write.
        found: Storage time, s, efficiency and its error.
        echo: The same of the echo without transfer; None where it was not measured.
        fit: The decay; None where it could not be fitted.
        model: What the maker states: storage time, s, and efficiency.
        title: What it is of.
    """
    figure, axes = _figure(6.4, 4.2)
    t, value, sigma = (np.array(column) for column in zip(*found, strict=True))
    stated_t, stated = (np.array(column) for column in zip(*model, strict=True))
    axes.plot(stated_t * 1e6, 100 * stated, "_", markersize=14, color="0.6", label="as stated")
    axes.errorbar(
        t * 1e6,
        100 * value,
        yerr=100 * sigma,
        fmt="o",
        markersize=4,
        capsize=2,
        color="C0",
        label="recalled",
    )
    if echo is not None:
        axes.errorbar(
            echo[0] * 1e6,
            100 * echo[1],
            yerr=100 * echo[2],
            fmt="s",
            markersize=4,
            capsize=2,
            color="C2",
            label="echo, not transferred",
        )
    if fit is not None:
        fine = np.linspace(fit.echo_s, 1.05 * float(t.max()), 300)
        micro, error = fit.lifetime_s.value * 1e6, fit.lifetime_s.sigma * 1e6
        axes.plot(
            fine * 1e6,
            100 * fit(fine),
            color="C1",
            linewidth=1.2,
            zorder=1,
            label=f"{fit.decay} fit: T = {micro:.2f} ± {error:.2f} µs,\n"
            f"{100 * fit.efficiency.value:.1f} ± {100 * fit.efficiency.sigma:.1f} % at the echo",
        )
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("storage time (µs)")
    axes.set_ylabel("efficiency, of what passes the transparent memory (%)")
    axes.legend(frameon=False, fontsize=9)
    axes.set_title(title, loc="left", fontsize=10)
    figure.savefig(path)


def _colors(count: int) -> list[Any]:
    """Colours for settings in an order, dark to light."""
    from matplotlib import colormaps

    return list(colormaps["viridis"](np.linspace(0, 0.9, count)))


def plot_drift(
    path: Path,
    times_s: npt.NDArray[Any],
    runs: Mapping[str, tuple[npt.NDArray[Any], npt.NDArray[Any]]],
    *,
    tolerance: float,
    optimum: float,
    states: Sequence[tuple[float, str]],
    end_s: float,
    title: str,
) -> None:
    """Error rate over time of several runs, and under it what the lock did in the last of them.

    Args:
        path: PNG to write.
        times_s: Middle of each interval, s.
        runs: By name, the error rate of each interval (nan where nothing was revealed) and the
            bits revealed in it.
        tolerance: Error rate above which there is no key.
        optimum: Error rate without any misalignment.
        states: When the lock came into which state, s, in order of time.
        end_s: End of the last state, s.
        title: What it is of.
    """
    figure, axes = _figure(7.0, 4.4)
    scale, unit = (60.0, "min") if end_s > 180 else (1.0, "s")
    top = tolerance
    for color, (name, (rate, bits)) in zip(("C3", "C0"), runs.items(), strict=False):
        seen = bits > 0
        # Agresti-Coull: an interval without errors is not known without error
        padded = (rate[seen] * bits[seen] + 2) / (bits[seen] + 4)
        sigma = np.sqrt(padded * (1 - padded) / (bits[seen] + 4))
        axes.errorbar(
            times_s[seen] / scale,
            100 * rate[seen],
            yerr=100 * sigma,
            fmt="o-",
            markersize=3,
            linewidth=1,
            capsize=1.5,
            color=color,
            label=name,
        )
        if seen.any():
            top = max(top, float((rate[seen] + sigma).max()))
    for level, words, style in (
        (tolerance, f"tolerance {100 * tolerance:g} %", "--"),
        (optimum, f"optimum {100 * optimum:g} %", ":"),
    ):
        axes.axhline(100 * level, color="0.4", linestyle=style, linewidth=1, label=words)
    top, strip = 110 * top, 4 * top
    colors = {"locked": "C2", "dithering": "C1", "lost": "C3", "idle": "0.75"}
    named: set[str] = set()
    changes = [*states, (end_s, "")]
    for (begin, state), (end, _) in itertools.pairwise(changes):
        axes.fill_between(
            [begin / scale, end / scale],
            -strip,
            0,
            color=colors.get(state, "0.5"),
            linewidth=0,
            label=None if state in named else f"lock: {state}",
        )
        named.add(state)
    axes.set_ylim(-strip, top)
    axes.set_xlim(0, end_s / scale)
    axes.set_xlabel(f"time in the exchange ({unit})")
    axes.set_ylabel("QBER of revealed bits (%)")
    shown = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    order = sorted(shown, key=lambda words: words not in runs)  # the lines, then the rest
    axes.legend(
        [shown[k] for k in order],
        order,
        frameon=False,
        fontsize=9,
        loc="upper left",
        bbox_to_anchor=(1.0, 1.0),
    )
    axes.set_title(title, loc="left", fontsize=10)
    figure.savefig(path)


def plot_gallery(path: Path, found: Sequence[Comparison]) -> None:
    """Ours over published, one line per result, with the tolerance as a bar.

    Args:
        path: PNG to write.
        found: The comparisons, those of one entry together.
    """
    shown = [each for each in found if each.ours is not None and each.published]
    figure, axes = _figure(7.6, 1.2 + 0.24 * max(len(shown), 1))
    low, high = 0.5, 1.5
    for row, each in enumerate(shown):
        assert each.ours is not None
        ratio = each.ours / each.published
        error = np.hypot(each.sigma or 0.0, ratio * each.uncertainty) / abs(each.published)
        color = {"agrees": "C2", "within errors": "C8"}.get(each.verdict, "C3")
        axes.barh(row, 2 * each.tolerance, left=1 - each.tolerance, height=0.7, color="0.88")
        at = min(max(ratio, low), high)
        marker = "o" if at == ratio else "<" if ratio < low else ">"
        axes.errorbar(
            at,
            row,
            xerr=error if at == ratio else None,
            fmt=marker if each.origin == "predicted" else "s",
            markersize=4,
            capsize=2,
            color=color,
            markerfacecolor=color if each.origin == "predicted" else "white",
            clip_on=at == ratio,  # an arrow stands on the edge
        )
        if at != ratio:
            axes.annotate(
                f"{ratio:.2f}",
                (at, row),
                xytext=(6 if at == low else -6, 0),
                ha="left" if at == low else "right",
                va="center",
                textcoords="offset points",
                fontsize=7,
                color=color,
            )
    axes.axvline(1, color="0.4", linewidth=0.8)
    axes.set_yticks(
        range(len(shown)), [f"{e.entry}, {e.run}: {e.quantity}" for e in shown], fontsize=7
    )
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.set_xlim(low, high)
    # Long names leave the axes narrow; the layout does not keep room for a label wider than they.
    axes.set_xlabel(
        "ours / published\n● predicted, □ fitted; grey: tolerance; bars: 1 sigma", fontsize=8
    )
    figure.savefig(path)


def plot_key_against_pairs(
    path: Path,
    links: Mapping[str, CwLink],
    found: Mapping[str, Comparison],
    *,
    title: str,
) -> None:
    """Key rate of the closed form against the pair rate, and what was measured on the twins.

    Args:
        path: PNG to write.
        links: By name, the links at the pair rate at which they were measured.
        found: The measured key rates, by the same names.
        title: What it is of.
    """
    figure, axes = _figure(6.4, 4.2)
    pairs = np.geomspace(1e6, 4e9, 400)
    for color, (name, link) in zip(_colors(len(links)), links.items(), strict=True):
        key = dataclasses.replace(link, pair_rate_hz=pairs).rates().key_rate_bps()
        axes.plot(pairs, np.where(key > 0, key, np.nan), color=color, linewidth=1, label=name)
        seen = found.get(name)
        if seen is not None and seen.ours:
            axes.errorbar(
                link.pair_rate_hz,
                seen.ours,
                yerr=seen.sigma,
                fmt="o",
                markersize=5,
                capsize=3,
                color=color,
            )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("pairs generated per second")
    axes.set_ylabel("secret bits per second, endless key")
    axes.legend(frameon=False, fontsize=9, title="lines: closed form, dots: twin")
    axes.set_title(title, loc="left", fontsize=10)
    figure.savefig(path)


def plot_mdi(
    path: Path,
    sent: tuple[npt.NDArray[Any], npt.NDArray[Any]],
    announced: tuple[npt.NDArray[Any], npt.NDArray[Any]],
    wrong_x: npt.NDArray[Any],
    model: RelayGains,
    *,
    intensities: Sequence[str],
    title: str,
) -> None:
    """Gains and errors of an MDI relay for each pair of intensities, with the closed form.

    Args:
        path: PNG to write.
        sent: Pulse pairs in Z and X, (3, 3) by intensities of Alice and Bob.
        announced: Announcements of these.
        wrong_x: Errors of those in X.
        model: The closed form.
        intensities: Their names, the strongest first.
        title: What it is of.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 5.6), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    above, below = figure.subplots(2, 1, sharex=True)
    places = np.arange(9)
    for k, (basis, marker) in enumerate((("Z", "s"), ("X", "o"))):
        n, pairs = announced[k].ravel(), sent[k].ravel()
        x, seen = places + 0.24 * (k - 0.5), n > 0
        above.errorbar(
            x[seen],
            (n / pairs)[seen],
            yerr=(np.sqrt(n) / pairs)[seen],
            fmt=marker,
            color=f"C{k}",
            markersize=4,
            capsize=2,
            label=f"{basis}, relay",
        )
        above.hlines(
            model.gain[k].ravel(),
            x - 0.1,
            x + 0.1,
            color="k",
            label="closed form, fitted" if k else None,
        )
    n = announced[1].ravel()
    seen = n > 0
    error = wrong_x.ravel()[seen] / n[seen]
    below.errorbar(
        places[seen],
        error,
        yerr=np.sqrt(np.maximum(error * (1 - error), 1 / n[seen]) / n[seen]),
        fmt="o",
        color="C1",
        markersize=4,
        capsize=2,
    )
    below.hlines((model.wrong[1] / model.gain[1]).ravel(), places - 0.16, places + 0.16, color="k")
    below.axhline(0.25, color="0.6", linewidth=0.8, linestyle=":")
    below.annotate(
        "equal weak pulses, full overlap", (8.4, 0.2), ha="right", fontsize=8, color="0.4"
    )
    above.set_yscale("log")
    above.set_ylabel("announcements per pulse pair")
    below.set_ylabel("errors in X")
    below.set_ylim(0, 0.8)
    pairs_of = [f"{a}\n{b}" for a in intensities for b in intensities]
    below.set_xticks(places, pairs_of, fontsize=8)
    below.set_xlabel("intensity of Alice, of Bob")
    above.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    for axes in (above, below):
        axes.spines[["top", "right"]].set_visible(False)
    above.set_title(title, loc="left", fontsize=10)
    figure.savefig(path)
