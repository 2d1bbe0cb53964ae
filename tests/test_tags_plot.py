import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bellbench.instruments import BellbenchError, Loss, TagBatch, TagFileError
from bellbench.instruments.formats import FORMATS, create_tags, open_tags
from bellbench.protocols.timing import (
    CoincidenceCounter,
    Correlation,
    CorrelationHistogram,
    Counter,
    FoldCounter,
    HistogramLogBins,
    fit_peak,
)
from bellbench.tags_cli import app
from bellbench.tags_plot import look, to_json
from matplotlib import image
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from typer.testing import CliRunner

END = 2 * 10**12
GAP = Loss("gap", 10**12, 12 * 10**11)


def run(*arguments: object) -> dict[str, Any]:
    result = CliRunner().invoke(app, ["plot", *map(str, arguments), "--json"])
    if isinstance(result.exception, BellbenchError):
        raise result.exception
    assert result.exit_code == 0, result.output
    answer = json.loads(result.stdout)
    assert isinstance(answer, dict)
    return answer


def numbers(*files: Path, **options: Any) -> dict[str, Any]:
    """What would be drawn, without drawing it."""
    return to_json(look([open_tags(file) for file in files], **options))


def usage_error(*arguments: object) -> str:
    result = CliRunner().invoke(app, ["plot", *map(str, arguments)])
    assert result.exit_code == 2, result.output
    return " ".join(result.output.replace("│", " ").split())


def write(path: Path, clicks: dict[int, Any], losses: tuple[Loss, ...] = ()) -> Path:
    times = np.concatenate([np.round(t).astype(np.int64) for t in clicks.values()])
    channels = np.repeat(np.array(list(clicks), np.int16), [len(t) for t in clicks.values()])
    keep = (times >= 0) & (times < END)
    for loss in losses:
        keep &= (times < loss.begin_ps) | (times >= loss.end_ps)
    order = np.argsort(times[keep], kind="stable")
    batch = TagBatch(times[keep][order], channels[keep][order], 0, END, losses=losses)
    with create_tags(path) as writer:
        for k in range(1, 5):
            first, batch = batch.split(k * END // 4)
            writer.write(first)
    return path


def pairs(number: int, seed: int) -> tuple[Any, Any, Any, Any]:
    """Times of pairs, of noise in either arm, and of nothing but noise."""
    rng = np.random.default_rng(seed)
    times = [np.sort(rng.uniform(10**7, END - 10**7, n)) for n in (number, 4000, 4000, 300)]
    jitter = [rng.normal(0, 100, number) for _ in range(2)]
    return (
        np.concatenate([times[0] + jitter[0], times[1]]),
        np.concatenate([times[0] + jitter[1] + rng.exponential(150, number), times[2]]),
        times[3],
        times[0],
    )


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pairs in channels 1 and 3, 7 ns later in 3, a gap, and a weak channel 9."""
    a, b, weak, _ = pairs(6000, 1)
    return write(tmp_path_factory.mktemp("tags") / "one.bbt", {1: a, 3: b + 7000, 9: weak}, (GAP,))


def not_blank(path: Path) -> bool:
    pixels = image.imread(path)
    return pixels.shape[0] > 900 and float(pixels[..., :3].std()) > 0.05


def test_what_is_drawn_is_what_the_classes_count(file: Path, tmp_path: Path) -> None:
    out = tmp_path / "seen.png"
    got = run(file, "--out", out)
    assert not_blank(out)
    tags = open_tags(file)
    rates = Counter([1, 3, 9], got["rates"][0]["bin_ps"])
    delays = {int(c): d for c, d in got["delays_ps"].items()}
    assert got["delays_found"] == ["1", "3"]
    assert delays[3] - delays[1] == pytest.approx(7150, abs=15)
    about = got["correlation"]
    assert about["channels"] == ["1", "3"]
    span = len(about["counts"]) * about["bin_ps"]
    histogram = CorrelationHistogram(1, 3, span, about["bin_ps"], delay_ps=delays[3] - delays[1])
    window = got["coincidences"]["window_ps"]
    steps = [20 * k * window for k in (-5, -4, -3, -2, -1, 1, 2, 3, 4, 5)]
    folds = FoldCounter(
        [1, 3, 9],
        window,
        delays_ps=delays,
        shifts_ps=[{1: 0, 3: step, 9: 2 * step} for step in steps],
    )
    for batch in tags:
        rates.add(batch)
        histogram.add(batch)
        folds.add(batch)
    counted, correlation, seen = rates.finish(), histogram.finish(), folds.finish()
    assert got["rates"][0]["counts"] == counted.counts.tolist()
    assert got["rates"][0]["live_ps"] == counted.live_ps.tolist()
    assert about["counts"] == correlation.counts.tolist()
    assert got["coincidences"]["counts"] == seen.pairs.tolist()
    assert got["coincidences"]["accidentals"] == seen.shifted_pairs.mean(axis=0).tolist()
    fit = fit_peak(correlation)
    assert got["fit"]["fwhm_ps"] == pytest.approx(fit.fwhm_ps.value)
    assert got["fit"]["pairs"] == pytest.approx(fit.pairs.value)
    assert got["fit"]["shape"] == "emg"
    assert abs(got["fit"]["tau_ps"] - 150) < 5 * got["fit"]["tau_ps_sigma"]


def test_widths_delays_and_channels_can_be_told(file: Path) -> None:
    options = ["--channels", "3,1", "--window", "2ns", "--span", "40ns", "--bin", "200ps"]
    got = run(file, *options, "--delay", "3=7ns", "--every", "100ms", "--log")
    assert (file.parent / "one.bbt.png").exists()
    assert len(got["rates"][0]["counts"]) == 20
    assert got["correlation"]["channels"] == ["3", "1"]
    assert (got["correlation"]["bin_ps"], len(got["correlation"]["counts"])) == (200, 200)
    assert got["coincidences"]["window_ps"] == 2000
    assert got["delays_ps"] == {"1": 0, "3": 7000, "9": 0}
    assert got["delays_found"] == []


def test_pulses_and_few_clicks_are_not_fitted(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    slots = [np.unique(rng.integers(0, END // 12_500, 100_000)) for _ in range(2)]
    pulses = [12_500 * slot + rng.normal(500, 300, slot.size) for slot in slots]
    got = numbers(write(tmp_path / "pulsed.bbt", {0: pulses[0], 1: pulses[1]}))
    assert got["fit"] is None
    assert got["delays_ps"] == {"0": 0, "1": 0}
    assert "several peaks" in got["no_fit"]
    for clicks in ({4: [10**6]}, {1: [5, 10**11], 2: [3 * 10**11]}):
        path = write(tmp_path / f"few{len(clicks)}.bbt", clicks)
        suffix, mark = ("svg", b"<?xml") if len(clicks) == 1 else ("pdf", b"%PDF")
        out = tmp_path / f"few.{suffix}"
        got = run(path, "--out", out)
        assert got["fit"] is None
        assert (got["coincidences"] is None) == (len(clicks) == 1)
        assert out.read_bytes().startswith(mark)


@pytest.mark.parametrize("ppm", [0, 20])
def test_two_taggers(tmp_path: Path, ppm: int) -> None:
    a, b, weak, _ = pairs(20_000, 5)
    first = write(tmp_path / "a.bbt", {1: a, 2: weak})
    second = write(tmp_path / "b.bbt", {1: 3e9 + b * (1 + 1e-6 * ppm)})
    got = numbers(first, second)
    assert got["correlation"]["channels"] == ["A1", "B1"]
    assert got["clock"]["frequency"] == pytest.approx(1e-6 * ppm, abs=2e-9)
    assert abs(got["fit"]["pairs"] - 20_000) < 600
    assert got["fit"]["fwhm_ps"] == pytest.approx(390, abs=40)
    assert [len(rates["channels"]) for rates in got["rates"]] == [2, 1]
    assert got["coincidences"]["counts"][0][0] > 19_000
    assert got["coincidences"]["counts"][1][0] < 10


def test_two_taggers_with_the_delay_told(tmp_path: Path) -> None:
    a, b, _, _ = pairs(2000, 5)
    first, second = write(tmp_path / "a.bbt", {1: a}), write(tmp_path / "b.bbt", {1: b + 10**6})
    got = run(first, second, "--delay", "B1=1us", "--window", "3ns")
    batches = [list(open_tags(path)) for path in (first, second)]
    steps = [60_000 * k for k in (-5, -4, -3, -2, -1, 1, 2, 3, 4, 5)]
    counter = CoincidenceCounter([1], [1], 3000, delays_b={1: 10**6}, shifts_ps=steps)
    for pair in zip(*batches, strict=True):
        counter.add(*pair)
    found = counter.finish()
    assert got["coincidences"]["counts"] == found.counts.tolist()
    assert got["coincidences"]["accidentals"] == found.accidentals.tolist()
    assert got["clock"] is None


def test_what_is_before_the_damage_is_drawn(file: Path, tmp_path: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-len(data) // 4] ^= 0x10
    hurt, out = tmp_path / "hurt.bbt", tmp_path / "hurt.png"
    hurt.write_bytes(data)
    with pytest.raises(TagFileError, match=r"all before it is in .*hurt\.png"):
        run(hurt, "--out", out)
    assert not_blank(out)


def test_bad_input(file: Path, tmp_path: Path) -> None:
    assert "one recording, or two" in usage_error(file, file, file)
    assert ".png, .svg or .pdf" in usage_error(file, "--out", tmp_path / "seen.gif")
    assert "recording itself" in usage_error(file, "--out", file)
    assert "channel 7 never clicked in one.bbt; those that did: 1, 3, 9" in usage_error(
        file, "--channels", "1,7"
    )
    assert "name 2 channels" in usage_error(file, "--channels", "1,3,9")
    assert "channel 5 has a delay but no click" in usage_error(file, "--delay", "5=1ns")
    assert "same recording twice" in usage_error(file, file)
    assert "10 million bins of 1 ps" in usage_error(file, "--every", "1ps")
    other = tmp_path / "other.bbt"
    other.write_bytes(file.read_bytes())
    assert "write A1=25ns or B1=25ns" in usage_error(file, other, "--delay", "1=1ns")
    assert "no bin" in usage_error(file, "--span", "1ns", "--bin", "2ns")
    with pytest.raises(BellbenchError, match="cannot write the picture"):
        run(file, "--out", tmp_path / "nowhere" / "seen.png")
    empty = write(tmp_path / "empty.bbt", {1: []})
    with pytest.raises(TagFileError, match="holds no click"):
        run(empty)


def test_results_draw_themselves(file: Path) -> None:
    batches = list(open_tags(file))
    rates, folds = Counter([1, 9], 10**11), FoldCounter([1, 3, 9], 1000)
    matrix = CoincidenceCounter([1], [3, 9], 1000, delays_b={3: 7000}, shifts_ps=[50_000])
    linear, growing = CorrelationHistogram(1, 3, 20_000, 100), HistogramLogBins(1, 3, 10, 10**9, 40)
    for batch in batches:
        for one in (rates, folds, matrix, linear, growing):
            one.add(batch)
    counted, correlation = rates.finish(), linear.finish()
    figure = Figure()
    ax = figure.subplots()
    assert counted.plot(ax) is ax
    texts = [text.get_text() for text in ax.get_legend().get_texts()]  # type: ignore[union-attr]
    assert texts[0].startswith("1: ")
    assert "losses" in texts
    assert ax.get_yscale() == "log"
    assert counted.plot(figure.subplots(), log=False).get_yscale() == "linear"
    ax = correlation.plot(figure.subplots(), fit=fit_peak(correlation))
    line = ax.lines[-1]
    assert np.array_equal(line.get_ydata(), fit_peak(correlation)(correlation))
    assert growing.finish().plot(figure.subplots()).get_xscale() == "log"
    ax = matrix.finish().plot(figure.subplots())
    assert any("CAR" in text.get_text() for text in ax.texts)
    ax = folds.finish().plot(figure.subplots())
    assert f"{folds.finish().singles[2]}\nclicks" in [text.get_text() for text in ax.texts]
    fresh = counted.plot()
    assert fresh.figure.axes == [fresh]
    plt.close("all")


def test_the_page_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (Path(__file__).parent.parent / "docs" / "tags.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for part in page.split("```python\n")[1:]:
        exec(compile(part.split("```")[0], "docs/tags.md", "exec"), names)
    said = capsys.readouterr().out
    assert names["rates"].duration_s == pytest.approx(0.5, abs=1e-3)
    assert "fast by 40.0" in said
    assert names["peak"].fwhm_ps.value == pytest.approx(120, abs=20)
    counts = names["pairs"].finish().counts
    assert counts[0, 0] > 20 * counts[0, 1]
    plt.close("all")
    for name, what in FORMATS.items():
        assert f"| `{name}` | {what.split(':')[0]}" in page


def test_nothing_can_be_drawn_too() -> None:
    none = Correlation(
        np.arange(10.0), np.zeros(10, np.int64), 1, np.zeros(10), 0, 0, (0.0, 0.0), 0.0
    )
    ax = none.plot(Figure().subplots())
    assert [text.get_text() for text in ax.texts] == ["no pair"]
    Counter([1], 10).finish().plot(Figure().subplots())
    FoldCounter([1], 10).finish().plot(Figure().subplots(), log=True)


def test_files_that_do_not_overlap_say_so(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    for name, begin in (("a", 0), ("b", 5 * 10**12)):
        times = np.sort(rng.integers(begin, begin + 10**12, 2000))
        with create_tags(tmp_path / f"{name}.bbt") as writer:
            writer.write(TagBatch(times, np.ones(2000, np.int16), begin, begin + 10**12))
    got = numbers(tmp_path / "a.bbt", tmp_path / "b.bbt")
    assert got["no_fit"] == (
        "the files do not overlap in time: A is from 0 to 1 s, B from 5 to 6 s"
    )


def test_json_tells_the_short_answers_first(file: Path) -> None:
    got = numbers(file)
    assert list(got) == [
        "files",
        "clock",
        "delays_ps",
        "delays_found",
        "fit",
        "no_fit",
        "coincidences",
        "correlation",
        "rates",
    ]
    pairs = got["coincidences"]
    counted, by_chance = pairs["counts"][0][1], pairs["accidentals"][0][1]
    expected = (counted - by_chance) / by_chance if by_chance else None
    assert pairs["car"][0][1] == expected
