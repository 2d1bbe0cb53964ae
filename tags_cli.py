"""``bellbench tags``: what is in a recorded tag file, and into another format with it."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .instruments import BellbenchError, TagBatch, TagFileError, parse_quantity
from .instruments.formats import FORMATS, LOOK_AHEAD, TagFile, create_tags, open_tags

if TYPE_CHECKING:
    from .protocols.timing import Correlation, CountRates

__all__ = ["app"]

app = typer.Typer(
    help="Click analysis of recorded tag files. Window widths are full widths.",
    no_args_is_help=True,
)

_BARS = "▁▂▃▄▅▆▇█"
_COLUMNS = 72


def _ps(text: str) -> int:
    try:
        value = 0.0 if text.strip() == "0" else parse_quantity(text, "s") * 1e12
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    if not 1 <= value <= 1e15:
        raise typer.BadParameter("must be between 1 ps and 1000 s")
    return round(value)


def _coincidence_ps(text: str) -> int:
    value = _ps(text)
    if value > 10**8:  # counting costs clicks x rate x window, at each of the wrong delays
        raise typer.BadParameter(
            "a coincidence window goes up to 100 us; 'tags correlate' looks further"
        )
    return value


def _step(text: str) -> float:
    try:
        value = parse_quantity(text, "s") * 1e12
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    if not 1e-3 <= value <= 1e9:
        raise typer.BadParameter("must be between 1 fs and 1 ms")
    return value


def _renumbering(text: str | None) -> dict[int, int]:
    """Return the new number of each channel to keep; empty: keep all as they are."""
    numbers: dict[int, int] = {}
    for part in text.split(",") if text is not None else []:
        old, equals, new = part.partition("=")
        try:
            before, after = int(old), int(new if equals else old)
        except ValueError as error:
            raise typer.BadParameter(
                "write channels as in 0,1 or 0=1,1=2", param_hint="--channels"
            ) from error
        if not all(-(1 << 15) <= x < 1 << 15 for x in (before, after)):
            raise typer.BadParameter("channels are 16-bit numbers", param_hint="--channels")
        if before in numbers:
            raise typer.BadParameter(f"channel {before} stands twice", param_hint="--channels")
        numbers[before] = after
    return numbers


def _renumbered(batch: TagBatch, numbers: dict[int, int]) -> TagBatch:
    import numpy as np

    if not numbers:
        return batch
    batch = batch.select(list(numbers))
    new = np.zeros(1 << 16, np.int16)
    for before, after in numbers.items():
        new[before] = after  # a negative channel counts from the end
    return replace(batch, channels=new[batch.channels])


def _reordered(tags: TagFile) -> str:
    return (
        f"{tags.reordered:,} clicks stand too late in the file and were sorted"
        f" (up to {LOOK_AHEAD:,} clicks late they can be)"
    )


def _numbers(text: str | None) -> list[int] | None:
    if text is None:
        return None
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise typer.BadParameter("write channels as in 0,1", param_hint="--channels") from error


def _delays(texts: list[str] | None) -> dict[int, int]:
    delays = {}
    for text in texts or []:
        channel, equals, delay = text.partition("=")
        try:
            if not (equals and channel.strip().isdecimal()):
                raise ValueError("write a delay as in 1=25ns")
            seconds = parse_quantity(delay, "s")
            if abs(seconds) > 1000:
                raise ValueError("a delay goes up to 1000 s")
            delays[int(channel)] = round(seconds * 1e12)
        except ValueError as error:
            raise typer.BadParameter(str(error), param_hint="--delay") from error
    return delays


def _damage(text: str) -> str:
    if text not in ("raise", "mark"):
        raise typer.BadParameter("is raise or mark")
    return text


File = Annotated[Path, typer.Argument(metavar="FILE", help="The recording.")]
Format = Annotated[
    str | None,
    typer.Option("--format", help=f"One of {', '.join(FORMATS)}; found by content if not said."),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Channels = Annotated[
    str | None, typer.Option(metavar="C,C", help="Channels; by default the first with clicks.")
]
Delays = Annotated[
    list[str] | None,
    typer.Option(metavar="C=TIME", help="Delay of a channel, taken off; may be repeated."),
]


Damage = Annotated[
    str,
    typer.Option(parser=_damage, metavar="raise|mark", help="mark: read on behind damage (bbt)."),
]
Period = Annotated[
    float | None,
    typer.Option(parser=_step, metavar="TIME", help="From pulse to pulse, of pulsed light."),
]


@app.command()
def info(
    file: File,
    format: Format = None,  # noqa: A002
    damage: Damage = "raise",
    as_json: Json = False,
) -> None:
    """Say what a file is, how long it lasts and what its channels counted.

    Of a damaged file this is what comes before the damage, then the error.
    """
    from .protocols.timing import CountRates

    tags = _open(file, format, damage)
    rates, fault = CountRates(), None
    try:
        for batch in tags:
            rates.add(batch)
    except TagFileError as error:
        fault = error
    header = {
        name: value
        for name, value in tags.info.header.items()
        if name.startswith(("File_", "HW_", "Creator"))
        and (isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value)))
    }
    result = {
        "file": str(file),
        "format": tags.info.format,
        "description": FORMATS[tags.info.format],
        "records": tags.info.records,
        "reordered": tags.reordered,
        "resolution_ps": tags.info.resolution_ps,
        "duration_s": rates.duration_s,
        "live_s": rates.live_s,
        "clicks": {str(channel): rates.counts[channel] for channel in sorted(rates.counts)},
        "header": header,
        "closed": tags.info.header.get("closed"),
        "torn_bytes": tags.info.header.get("torn_bytes"),
        "damage": None if fault is None else str(fault),
    }
    if as_json:
        _print_json(result)
    else:
        table = _table("", "", title=str(file))
        table.add_row("format", f"{tags.info.format}: {FORMATS[tags.info.format]}")
        if tags.info.records:
            beyond = ", those behind the damage too" if fault is not None else ""
            table.add_row("records", f"{tags.info.records:,}{beyond}")
        table.add_row("time step", f"{tags.info.resolution_ps:g} ps")
        table.add_row("duration", _time(rates.duration_s))
        if rates.live_s < rates.duration_s:
            table.add_row("live", _time(rates.live_s))
        if tags.reordered:
            table.add_row("out of order", f"{tags.reordered:,} clicks, sorted")
        if torn := _torn(tags):
            table.add_row("not closed", torn)
        for channel in sorted(rates.counts):
            table.add_row(f"channel {channel}", f"{rates.counts[channel]:,} clicks")
        for name, value in header.items():
            table.add_row(name, str(value))
        _show(table)
    if fault is not None:
        raise fault


@app.command()
def convert(
    sources: Annotated[
        list[Path],
        typer.Argument(metavar="IN...", help="The recording; its files, if one per channel."),
    ],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="The file to write.")],
    to: Annotated[
        str | None, typer.Option(help="Format of OUT; by its suffix if not said.")
    ] = None,
    format: Format = None,  # noqa: A002
    resolution: Annotated[
        float | None,
        typer.Option(parser=_step, metavar="TIME", help="Time step of OUT, where it has a choice."),
    ] = None,
    channels: Annotated[
        str | None,
        typer.Option(metavar="C,C=NEW", help="Channels to keep, =NEW with a new number."),
    ] = None,
    channel: Annotated[
        list[int] | None,
        typer.Option(help="Channel of each IN, in order, where they do not tell (id900)."),
    ] = None,
    period: Annotated[
        int | None,
        typer.Option(parser=_ps, metavar="TIME", help="Period of IN's reference (id900ref)."),
    ] = None,
    step: Annotated[
        float | None,
        typer.Option(parser=_step, metavar="TIME", help="Time step of IN, where it cannot tell."),
    ] = None,
    damage: Damage = "raise",
    force: Annotated[bool, typer.Option("--force", help="Replace OUT if it exists.")] = False,
    as_json: Json = False,
) -> None:
    """Write a recording in another format, and say what that loses.

    Several files of one tagger, one per channel or epoch, become one. Streams: memory does not
    grow with the recording. Where IN is damaged, all before the damage is written before the
    error.
    """
    numbers = _renumbering(channels)
    try:
        tags = open_tags(
            sources,
            format,
            channel=channel or None,
            period_ps=period,
            resolution_ps=step,
            damage="mark" if damage == "mark" else "raise",
        )
    except ValueError as error:
        each = " ".join(f"--channel {i + 1}" for i in range(len(sources)))
        hint = f", as in {each}" if "channel" in str(error) and len(sources) > 1 else ""
        raise typer.BadParameter(f"{error}{hint}") from error
    clocks = sorted({part.info.clock_id for part in tags.parts} - {""})
    if len(clocks) > 1:
        raise BellbenchError(
            f"{' and '.join(map(str, sources))} are two taggers' (clocks {' and '.join(clocks)});"
            " convert joins files of one; see bellbench tags plot A B"
        )
    if target.exists():
        if target.resolve() in [source.resolve() for source in sources]:
            raise BellbenchError(f"{target} is the recording itself; name another file")
        if not force:
            raise BellbenchError(f"{target} exists; --force replaces it")
    fault: TagFileError | None = None
    clicks, start, clock = 0, 0, ""
    batches = iter(tags)
    try:
        first = next(batches, None)
    except TagFileError as error:
        raise TagFileError(f"{error}; nothing before it could be kept") from error
    except ValueError as error:  # of merge
        raise BellbenchError(f"{' and '.join(map(str, sources))}: {error}") from error
    if first is None:
        raise TagFileError("holds no click", path=tags.info.path)
    start, clock = first.start_unix_ns, first.clock_id
    try:
        with create_tags(
            target, to, resolution_ps=resolution, start_unix_ns=start, clock_id=clock
        ) as writer:
            batch: TagBatch | None = first
            while batch is not None:
                batch = _renumbered(batch, numbers)
                writer.write(batch)
                clicks += len(batch)
                try:
                    batch = next(batches, None)
                except TagFileError as error:
                    fault, batch = error, None
    except ValueError as error:
        about_them = not numbers and "channel" in str(error)
        hint = "; --channels chooses and renumbers, as in 0=1,1=2" if about_them else ""
        raise TagFileError(f"cannot be written: {error}{hint}", path=str(target)) from error
    except OSError as error:
        raise TagFileError(f"cannot be written: {error.strerror}", path=str(target)) from error
    made = open_tags(target, writer.format)
    again = next(iter(made), None)
    notes = []
    old, new = tags.info.resolution_ps, made.info.resolution_ps
    if new > 1 and (old / new) % 1:
        notes.append(f"times are rounded to steps of {new:g} ps, half up (they came in {old:g} ps)")
    if writer.format == "qcrypto_t2":
        notes.append("clicks less than 250 ps after another are moved to 250 ps after it")
    if writer.losses_dropped:
        notes.append(
            f"{writer.losses_dropped:,} losses, {_time(writer.dropped_ps * 1e-12)} in all, are not"
            f" marked: {writer.format} has no place for them"
        )
    if start and not (again and again.start_unix_ns):
        notes.append(f"the time of the start is not kept: {writer.format} has no place for it")
    if again is not None:
        moved = (start - again.start_unix_ns) * 1000 if start and again.start_unix_ns else 0
        early = first.begin_ps + moved - again.begin_ps
        if early > 10**9:
            notes.append(
                f"the begin is not kept: {writer.format} files begin"
                f" at {_time(again.begin_ps * 1e-12)}, here {_time(early * 1e-12)} before the"
                " recording; rates of it come out too low"
            )
    for part in tags.parts or (tags,):
        if torn := _torn(part):
            notes.append(f"{part.info.path} is not closed: {torn}")
    if tags.reordered:
        notes.append(_reordered(tags))
    if as_json:
        _print_json(
            {
                "file": tags.info.path,
                "format": tags.info.format,
                "written": str(target),
                "to": writer.format,
                "clicks": clicks,
                "losses_dropped": writer.losses_dropped,
                "lost_s": writer.dropped_ps * 1e-12,
                "reordered": tags.reordered,
                "resolution_ps": new,
                "notes": notes,
            }
        )
    else:
        _show(f"{target}: {clicks:,} clicks as {writer.format}, from {tags.info.format}")
        for note in notes:
            _show(f"  {note}")
    if fault is not None:
        raise TagFileError(f"{fault}; the {clicks:,} clicks before it are in {target}") from fault


@app.command()
def rates(
    file: File,
    format: Format = None,  # noqa: A002
    damage: Damage = "raise",
    as_json: Json = False,
) -> None:
    """Print the count rate of every channel over live time, with its Poisson error."""
    tags = _open(file, format, damage)
    found = _count(tags)
    _say(tags)
    rows = {
        channel: {
            "clicks": count,
            "rate_hz": found.rate_hz(channel) if found.live_s else None,
            "sigma_hz": math.sqrt(count) / found.live_s if found.live_s else None,
        }
        for channel, count in sorted(found.counts.items())
    }
    if as_json:
        _print_json({"file": str(file), "live_s": found.live_s, "lost": found.lost, "rates": rows})
        return
    table = _table("channel", "clicks", "rate (1/s)", title=f"{file}, {_time(found.live_s)} live")
    for channel, row in rows.items():
        rate, sigma = row["rate_hz"], row["sigma_hz"]
        told = "-"
        if rate is not None and sigma:
            digits = _digits(sigma)
            told = f"{rate:,.{digits}f} ± {sigma:,.{digits}f}"
        table.add_row(str(channel), f"{row['clicks']:,}", told)
    _show(table)
    if found.live_s < found.duration_s:
        _show(f"losses: {_time(found.duration_s - found.live_s)}, {found.lost:,} clicks admitted")


@app.command()
def correlate(
    file: File,
    channels: Channels = None,
    window: Annotated[
        int, typer.Option(parser=_ps, metavar="TIME", help="Full width of the histogram.")
    ] = "100ns",  # type: ignore[assignment]
    bin: Annotated[  # noqa: A002
        int, typer.Option(parser=_ps, metavar="TIME", help="Width of a bin.")
    ] = "100ps",  # type: ignore[assignment]
    delay: Delays = None,
    period: Period = None,
    plot: Annotated[Path | None, typer.Option(help="PNG to write.")] = None,
    format: Format = None,  # noqa: A002
    damage: Damage = "raise",
    as_json: Json = False,
) -> None:
    """Correlate two channels: g2 against the delay; 1 where clicks are independent.

    The same channel twice gives its autocorrelation. g2(0), of ten bins, is told against the outer
    half of the histogram, where light that is continuous has forgotten itself. Of pulsed light say
    the period, and the delay of the pulse: g2(0) is its pairs over those of the other pulses, each
    within one period.
    """
    from .protocols.timing import CorrelationHistogram, g2_zero
    from .tags_plot import pulsed

    delays = _delays(delay)
    tags = _open(file, format, damage)
    first, second = _pick(tags, _numbers(channels), 2)
    _used(delays, (first, second))
    shift = delays.get(second, 0) - delays.get(first, 0)
    try:
        histogram = CorrelationHistogram(first, second, window, bin, delay_ps=shift)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    for batch in tags:
        histogram.add(batch)
    _say(tags)
    found = histogram.finish()
    if not found.singles_a * found.singles_b:
        _clicked(tags, _count(tags).counts, (first, second))
        raise TagFileError(f"channels {first} and {second} were never live", path=str(file))
    step = tags.info.resolution_ps
    comb = bin < 20 * step and bin % step != 0
    if comb:
        typer.echo(
            f"bellbench: bins of {bin} ps are no multiple of the {step:g} ps time step:"
            " expect a comb",
            err=True,
        )
    if plot is not None:
        taken = f", {_time(shift * 1e-12)} taken off" if shift else ""
        _plot(plot, found, f"{file.name}: channel {second} after channel {first}{taken}")
    beyond, half = window // 4, found.counts.size * bin / 2
    zero, over, why = None, 10 * bin, ""
    if period is not None:
        over = math.floor(period)
        if not bin <= over <= window / 3:
            raise typer.BadParameter(
                f"the histogram of {_time(window * 1e-12)}, bins of {_time(bin * 1e-12)}, does not"
                " show single pulses: take a --window of some periods, a --bin of less than one",
                param_hint="--period",
            )
        try:
            zero = g2_zero(found, over, period_ps=period)
        except ValueError as error:
            raise typer.BadParameter(str(error), param_hint="--period") from error
        beside = _beside_pulses(found, period)
        if abs(beside) > period / 4:
            zero = None
            why = (
                f"no g2(0): the pulses lie {_time(beside * 1e-12)} beside zero delay;"
                f" tell the delay of the pulse, --delay {second}=TIME"
            )
        why = (why + _lowest_pulse(found, period, beside, shift)).strip()
    elif not comb and pulsed(found):
        why = "pulsed, no g2(0): tell --period TIME" + (
            f", and the delay of the pulse at equal arrival, --delay {second}=TIME"
            if first != second
            else ""
        )
    elif over <= 2 * beyond:
        zero = g2_zero(found, over, beyond_ps=beyond)
    level = float(found.expected[found.counts.size // 2])
    known = zero is not None and not math.isnan(zero.value)
    if as_json:
        _print_json(
            {
                "file": str(file),
                "channels": [first, second],
                "window_ps": window,
                "bin_ps": bin,
                "delay_ps": shift,
                "live_s": found.live_s,
                "clicks": [found.singles_a, found.singles_b],
                "expected_per_bin": level,
                "g2_zero": zero.value if zero is not None and known else None,
                "g2_zero_sigma": zero.sigma if zero is not None and known else None,
                "g2_window_ps": over,
                "g2_beyond_ps": beyond if period is None else None,
                "period_ps": period,
                "note": why,
                "delays_ps": found.delays_ps.tolist(),
                "counts": found.counts.tolist(),
            }
        )
        return
    _show(f"{file}: delay of channel {second} after channel {first}")
    _show(_sparkline(found))
    ends = f"{_time(-half * 1e-12)}", f"{_time(half * 1e-12)}"
    shown = min(_COLUMNS, found.counts.size)
    _show(ends[0] + "0".center(shown - len(ends[0]) - len(ends[1])) + ends[1])
    _show(f"pairs {found.counts.sum():,}; independent clicks give {level:,.1f} per bin")
    if zero is not None and known:
        against = f"delays beyond {_time(beyond * 1e-12)}" if period is None else "the other pulses"
        _show(
            f"g2(0) = {zero.value:.3g} ± {zero.sigma:.2g}, mean over {_time(over * 1e-12)} (full"
            f" width), against {against}"
        )
    if why:
        _show(why)
    if plot is not None:
        _show(f"plot: {plot}")


def _beside_pulses(found: Correlation, period: float) -> float:
    """Return by how much the pulses are later than multiples of the period: at most half of it."""
    import numpy as np

    turn = np.exp(2j * math.pi * found.delays_ps / period) @ found.counts
    return float(np.angle(turn)) * period / (2 * math.pi)


def _lowest_pulse(found: Correlation, period: float, beside: float, shift: int) -> str:
    """Say which pulse has far fewer pairs than the others, if it is not that at zero delay."""
    import numpy as np

    half = found.counts.size * found.bin_ps / 2
    number = np.rint((found.delays_ps - beside) / period).astype(int)
    last = math.floor((half - abs(beside)) / period - 0.5)  # those wholly in the histogram
    pairs = {k: int(found.counts[number == k].sum()) for k in range(-last, last + 1)}
    if len(pairs) < 3:
        return ""
    low = min(pairs, key=lambda k: (pairs[k], abs(k)))
    usual = float(np.median(list(pairs.values())))
    at = low * period + beside
    if pairs[low] > usual / 2 or usual - pairs[low] < 5 * math.sqrt(usual) or abs(at) < period / 2:
        return ""
    return (
        f"\nthe lowest pulse, {pairs[low]:,} pairs where others have {usual:,.0f}, is at a delay of"
        f" {_time((shift + at) * 1e-12)}"
    )


def _used(delays: Mapping[int, int], channels: Collection[int]) -> None:
    for channel in sorted(set(delays) - set(channels)):
        counted = ", ".join(map(str, channels))
        raise typer.BadParameter(
            f"channel {channel} has a delay but is not counted; those that are: {counted}",
            param_hint="--delay",
        )


def _clicked(tags: TagFile, counts: Mapping[int, int], channels: Collection[int]) -> None:
    """Refuse channels that never clicked, as ``tags plot`` does."""
    for channel in channels:
        if not counts.get(channel):
            there = ", ".join(map(str, sorted(counts))) or "none"
            raise typer.BadParameter(
                f"channel {channel} never clicked in {Path(tags.info.path).name};"
                f" those that did: {there}"
            )


@app.command()
def coincidences(
    file: File,
    channels: Channels = None,
    window: Annotated[
        int,
        typer.Option(
            parser=_coincidence_ps, metavar="TIME", help="Full width, ends included; to 100 us."
        ),
    ] = "1ns",  # type: ignore[assignment]
    delay: Delays = None,
    period: Period = None,
    format: Format = None,  # noqa: A002
    damage: Damage = "raise",
    as_json: Json = False,
) -> None:
    """Count the coincidences of every pair of channels.

    All pairs count, with accidentals measured at 20 wrong delays of 20 to 200 windows. Of pulsed
    light say the period: the wrong delays are then multiples of it, the next longer ones.
    """
    from .protocols.timing import CoincidenceCounter, CorrelationHistogram, CountRates
    from .tags_plot import pulsed

    delays = _delays(delay)
    tags = _open(file, format, damage)
    chosen = sorted(set(_pick(tags, _numbers(channels), None)))
    if len(chosen) < 2:
        raise TagFileError("coincidences need two different channels", path=str(file))
    _used(delays, chosen)
    apart = 20.0 * window if period is None else period * math.ceil(20 * window / period)
    shifts = [round(k * apart) for k in (*range(-10, 0), *range(1, 11))]
    try:
        counters = [
            CoincidenceCounter(
                [one],
                chosen[i + 1 :],
                window,
                delays_a={one: delays.get(one, 0)},
                delays_b={other: delays.get(other, 0) for other in chosen[i + 1 :]},
                shifts_ps=shifts,
            )
            for i, one in enumerate(chosen[:-1])
        ]
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    # pulses show between any two channels; whole time steps make no comb
    width = max(1, math.ceil(tags.info.resolution_ps)) * math.ceil(100 / tags.info.resolution_ps)
    looks = [
        CorrelationHistogram(one, other, 1000 * width, width)
        for one, other in itertools.pairwise(chosen)
        if period is None
    ]
    seen = CountRates()
    for batch in tags:
        seen.add(batch)
        for counter in counters:
            counter.add(batch)
        for histogram in looks:
            histogram.add(batch)
    _say(tags)
    _clicked(tags, seen.counts, chosen)
    pulses = any(pulsed(histogram.finish()) for histogram in looks)
    if pulses:
        typer.echo(
            "bellbench: pulsed: accidentals at these wrong delays mean little; tell --period TIME",
            err=True,
        )
    rows: list[dict[str, Any]] = []
    for counter in counters:
        found = counter.finish()
        for j, other in enumerate(found.channels_b):
            count, accidentals = int(found.counts[0, j]), float(found.accidentals[0, j])
            rows.append(
                {
                    "channels": [found.channels_a[0], other],
                    "coincidences": count,
                    "rate_hz": count / found.live_s if found.live_s else None,
                    "sigma_hz": math.sqrt(count) / found.live_s if found.live_s else None,
                    "accidentals": accidentals,
                    "car": (count - accidentals) / accidentals if accidentals else None,
                }
            )
    if as_json:
        about = {"window_ps": window, "period_ps": period, "pulsed": pulses or period is not None}
        _print_json({"file": str(file), **about, "shifts_ps": shifts, "pairs": rows})
        return
    table = _table(
        "channels",
        "coincidences",
        "accidentals",
        "rate (1/s)",
        "CAR",
        title=f"{file}, window {_time(window * 1e-12)} (full width)",
    )
    for row in rows:
        table.add_row(
            "{}-{}".format(*row["channels"]),
            f"{row['coincidences']:,}",
            f"{row['accidentals']:,.1f}",
            "-" if row["rate_hz"] is None else f"{row['rate_hz']:,.{_digits(row['sigma_hz'])}f}",
            "-" if row["car"] is None else f"{row['car']:.3g}",
        )
    _show(table)


@app.command()
def plot(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="A recording, or those of two taggers.")
    ],
    out: Annotated[
        Path | None, typer.Option(help="Picture to write, .png, .svg or .pdf; FILE.png by default.")
    ] = None,
    channels: Annotated[
        str | None,
        typer.Option(
            metavar="C,C", help="The two to correlate; by default those with the clearest peak."
        ),
    ] = None,
    window: Annotated[
        int | None,
        typer.Option(parser=_coincidence_ps, metavar="TIME", help="Coincidence window."),
    ] = None,
    span: Annotated[
        int | None,
        typer.Option(parser=_ps, metavar="TIME", help="Full width of the correlation."),
    ] = None,
    bin: Annotated[  # noqa: A002
        int | None, typer.Option(parser=_ps, metavar="TIME", help="Bins of the correlation.")
    ] = None,
    every: Annotated[
        int | None, typer.Option(parser=_ps, metavar="TIME", help="Bins of the rates.")
    ] = None,
    delay: Annotated[
        list[str] | None,
        typer.Option(
            metavar="C=TIME",
            help="Delay of a channel (of two files: A1=, B1=), taken off; none is sought then.",
        ),
    ] = None,
    log: Annotated[bool, typer.Option("--log", help="Logarithmic counts.")] = False,
    format: Format = None,  # noqa: A002
    damage: Damage = "raise",
    as_json: Json = False,
) -> None:
    """Draw rates over time, the correlation of two channels with its fit, and all coincidences.

    Of two files the first is A, the second B: A's channels are correlated with B's. Delays, and
    the clock of a tagger that runs freely, are found from the coincidences.
    """
    from .tags_plot import draw, look, summary, to_json

    if len(files) > 2:
        raise typer.BadParameter("one recording, or two of two taggers", param_hint="FILE...")
    picture = out or files[0].with_name(files[0].name + ".png")
    if picture.resolve() in [file.resolve() for file in files]:
        raise typer.BadParameter("is the recording itself", param_hint="--out")
    if picture.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise typer.BadParameter("pictures end in .png, .svg or .pdf", param_hint="--out")
    if not picture.parent.is_dir():  # said before the work, not after
        raise BellbenchError(f"cannot write the picture {picture}: there is no such folder")
    if len({file.resolve() for file in files}) < len(files):
        raise typer.BadParameter(
            "is the same recording twice; --channels 0,0 correlates a channel with itself",
            param_hint="FILE...",
        )
    tags = [_open(file, format, damage) for file in files]
    pair = _numbers(channels)
    if pair is not None and len(pair) != 2:
        raise typer.BadParameter("name 2 channels, as in 0,1", param_hint="--channels")
    try:
        seen = look(
            tags,
            pair=None if pair is None else (pair[0], pair[1]),
            delays_ps=_named_delays(delay, len(files)) if delay else None,
            window_ps=window,
            span_ps=span,
            bin_ps=bin,
            every_ps=every,
        )
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    for one in tags:
        _say(one)
    draw(picture, seen, log=log)
    if as_json:
        _print_json({"picture": str(picture)} | to_json(seen))
    else:
        for line in summary(seen):
            _show(line)
        _show(f"picture: {picture}")
    if seen.damage:
        raise TagFileError(f"{seen.damage[0]}; all before it is in {picture}")


def _named_delays(texts: list[str], files: int) -> dict[tuple[int, int], int]:
    if files == 1:
        return {(0, channel): delay for channel, delay in _delays(texts).items()}
    delays = {}
    for text in texts:
        letter = text.strip()[:1].upper()
        if letter not in ("A", "B"):
            raise typer.BadParameter("of two files, write A1=25ns or B1=25ns", param_hint="--delay")
        for channel, delay in _delays([text.strip()[1:]]).items():
            delays["AB".index(letter), channel] = delay
    return delays


def _count(tags: TagFile) -> CountRates:
    from .protocols.timing import CountRates

    found = CountRates()
    for batch in tags:
        found.add(batch)
    return found


def _open(file: Path, name: str | None, damage: str) -> TagFile:
    try:
        return open_tags(file, name, damage="mark" if damage == "mark" else "raise")
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--damage") from error


def _torn(tags: TagFile) -> str:
    """Say that a file has no end; empty where it has, or where its format knows none."""
    if tags.info.header.get("closed", True):
        return ""
    torn = tags.info.header.get("torn_bytes", 0)
    more = f"; {torn:,} bytes of an unfinished chunk" if torn else ""
    return f"still being written or cut off{more}"


def _say(tags: TagFile) -> None:
    """Warn of what a file has that it should not have."""
    for part in tags.parts or (tags,):
        if torn := _torn(part):
            typer.echo(f"bellbench: {part.info.path} is not closed: {torn}", err=True)
    if tags.reordered:
        typer.echo(f"bellbench: {_reordered(tags)}", err=True)


def _pick(tags: TagFile, wanted: list[int] | None, number: int | None) -> list[int]:
    """Return the channels asked for, or the first ``number`` with clicks."""
    if wanted is not None:
        if number is not None and len(wanted) != number:
            message = f"name {number} channels, as in 0,1"
            raise typer.BadParameter(message, param_hint="--channels")
        return wanted
    present = sorted(_count(tags).counts)
    if len(present) == 1 and number == 2:
        return present * 2
    if not present:
        raise TagFileError("holds no click", path=tags.info.path)
    return present[:number]


def _digits(sigma: float) -> int:
    """Decimals that show two digits of an error; one at least."""
    return min(max(1 - math.floor(math.log10(sigma)), 1), 9) if sigma else 1


def _time(seconds: float) -> str:
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6), ("ns", 1e-9)):
        if abs(seconds) >= scale * (1 - 1e-9):
            return f"{seconds / scale:.6g} {unit}"
    return f"{seconds / 1e-12:.6g} ps"


def _sparkline(found: Correlation) -> str:
    import numpy as np

    parts = np.array_split(found.counts, min(_COLUMNS, found.counts.size))
    heights = np.array([part.max() for part in parts])  # a mean would wash out pulses
    top = float(heights.max()) or 1.0
    return "".join(_BARS[min(int(8 * height / top), 7)] for height in heights)


def _plot(path: Path, found: Correlation, title: str) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.0), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    found.plot(figure.add_subplot()).set_title(title, fontsize=10)
    try:
        figure.savefig(path, format="png")
    except OSError as error:
        raise BellbenchError(f"cannot write the plot {path}: {error.strerror}") from error


def _table(*columns: str, title: str) -> Any:
    from rich.table import Table

    _show(title)
    table = Table(show_header=any(columns), box=None)
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i == 0 or not any(columns) else "right")
    return table


def _show(what: object) -> None:
    from rich.console import Console

    Console(highlight=False, markup=False).print(what, soft_wrap=isinstance(what, str))


def _print_json(result: dict[str, Any]) -> None:
    print(json.dumps(result, allow_nan=False, default=str))
