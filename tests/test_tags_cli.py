import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bellbench.instruments import BellbenchError, TagBatch, TagFileError
from bellbench.instruments.formats import create_tags, encode_tags
from bellbench.tags_cli import app
from typer.testing import CliRunner

HYDRAHARP = Path(os.environ.get("BELLBENCH_RECORDINGS", "/nonexistent")) / "hydraharp_t2_hbt.ptu"
recorded = pytest.mark.skipif(not HYDRAHARP.exists(), reason="BELLBENCH_RECORDINGS not set")


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=True)
    if isinstance(result.exception, BellbenchError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def run_json(*arguments: object) -> dict[str, Any]:
    answer = json.loads(run(*arguments, "--json"))
    assert isinstance(answer, dict)
    return answer


def usage_error(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exit_code == 2, result.output
    return " ".join(result.output.replace("│", " ").split())


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """10,000 pairs on channels 1 and 2, 5 ns apart, 10 us between pairs; 100 clicks on 4."""
    first = np.arange(10_000) * 10_000_000 + 1_000_000
    times = np.concatenate([first, first + 5000, first[::100] + 4_000_000])
    channels = np.repeat(np.array([1, 2, 4], np.int16), [10_000, 10_000, 100])
    order = np.argsort(times)
    batch = TagBatch(times[order], channels[order], 0, 10**11)
    path = tmp_path / "pairs.dump"
    path.write_bytes(encode_tags(batch, "swabian"))
    return path


def test_info(file: Path) -> None:
    got = run_json("info", file)
    assert got["format"] == "swabian"
    assert got["clicks"] == {"1": 10_000, "2": 10_000, "4": 100}
    assert got["records"] == 20_100
    assert got["resolution_ps"] == 1
    assert got["duration_s"] == pytest.approx(0.09999, abs=1e-6)
    text = run("info", file)
    assert "swabian: Swabian Time Tagger 16-byte records" in text
    assert "10,000 clicks" in text


def test_rates(file: Path) -> None:
    got = run_json("rates", file)["rates"]
    assert got["1"]["rate_hz"] == pytest.approx(1e5, rel=1e-3)
    assert got["4"]["sigma_hz"] == pytest.approx(100, rel=1e-3)
    assert "100,010.0 ± 1,000.1" in run("rates", file)


def test_correlate(file: Path, tmp_path: Path) -> None:
    picture = tmp_path / "g2.png"
    got = run_json("correlate", file, "--window", "20 ns", "--bin", "1ns", "--plot", picture)
    assert got["channels"] == [1, 2]
    assert len(got["counts"]) == 20
    assert sum(got["counts"]) == 10_000
    assert got["delays_ps"][int(np.argmax(got["counts"]))] == 5500
    assert picture.read_bytes().startswith(b"\x89PNG")
    taken = run_json("correlate", file, "--window", "20ns", "--bin", "1ns", "--delay", "2=5ns")
    assert taken["delays_ps"][int(np.argmax(taken["counts"]))] == 500
    turned = run_json("correlate", file, "--channels", "2,1", "--window", "20ns", "--bin", "1ns")
    assert turned["delays_ps"][int(np.argmax(turned["counts"]))] == -4500
    own = run_json("correlate", file, "--channels", "1,1", "--window", "30us", "--bin", "1us")
    assert sum(own["counts"]) == 2 * 9_999
    text = run("correlate", file)
    assert "delay of channel 2 after channel 1" in text
    assert "█" in text


def test_coincidences(file: Path) -> None:
    got = run_json("coincidences", file)["pairs"]
    assert [row["channels"] for row in got] == [[1, 2], [1, 4], [2, 4]]
    assert [row["coincidences"] for row in got] == [0, 0, 0]
    # The full width: 5 ns apart is inside from 10 ns on, ends included.
    for window, delay, expected in (
        ("10ns", (), 10_000),
        ("9.998ns", (), 0),
        ("1ns", ("--delay", "2=5ns"), 10_000),
        ("1ns", ("--delay", "2=6 ns", "--delay", "1=1ns"), 10_000),
    ):
        (row,) = run_json("coincidences", file, "--channels", "1,2", "--window", window, *delay)[
            "pairs"
        ]
        assert row["coincidences"] == expected
        assert row["accidentals"] == 0
        assert row["car"] is None
    assert run_json("coincidences", file, "--window", "100us")["window_ps"] == 10**8
    assert "window 10 ns (full width)" in run("coincidences", file, "--window", "10ns")


def test_usage_errors(file: Path) -> None:
    assert "'3' has no unit" in usage_error("correlate", file, "--window", "3")
    assert "between 1 ps and 1000 s" in usage_error("correlate", file, "--window", "0s")
    assert "up to 100 us" in usage_error("coincidences", file, "--window", "1s")
    assert "between 1 ps" in usage_error("coincidences", file, "--window", "0s")
    assert "between 1 ps" in usage_error("coincidences", file, "--window", "0")
    assert "raise or mark" in usage_error("rates", file, "--damage", "no")
    assert "take no damage" in usage_error("rates", file, "--damage", "mark")
    assert "no bin of 2000 ps" in usage_error("correlate", file, "--window", "1ns", "--bin", "2ns")
    assert "10 million bins" in usage_error("correlate", file, "--window", "1s", "--bin", "1ps")
    assert "write channels as in 0,1" in usage_error("correlate", file, "--channels", "a")
    assert "name 2 channels" in usage_error("correlate", file, "--channels", "1,2,4")
    assert "1=25ns" in usage_error("coincidences", file, "--delay", "25ns")
    assert "no unit" in usage_error("coincidences", file, "--delay", "1=25")
    assert "up to 1000 s" in usage_error("coincidences", file, "--delay", "1=1e30s")
    assert "16-bit" in usage_error("coincidences", file, "--channels", "1,70000")
    assert "16-bit" in usage_error("correlate", file, "--channels", "1,70000")


def test_bad_files(tmp_path: Path, file: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("not a tag file\n" * 20)
    commands = ("info", "rates", "correlate", "coincidences")
    for command in commands:
        with pytest.raises(TagFileError, match=r"not a tag file I know.*--format"):
            run(command, text)
        with pytest.raises(TagFileError, match="No such file"):
            run(command, tmp_path / "missing.ptu")
        with pytest.raises(TagFileError, match="is a folder"):
            run(command, tmp_path)
        with pytest.raises(TagFileError, match="unknown format 'x'"):
            run(command, file, "--format", "x")
    for command in ("correlate", "coincidences"):
        never = usage_error(command, file, "--channels", "1,3")
        assert "channel 3 never clicked in pairs.dump; those that did: 1, 2, 4" in never
        unused = usage_error(command, file, "--channels", "1,2", "--delay", "9=1ns")
        assert "channel 9 has a delay but is not counted; those that are: 1, 2" in unused
    with pytest.raises(TagFileError, match="two different channels"):
        run("coincidences", file, "--channels", "1,1")
    with pytest.raises(BellbenchError, match="cannot write the plot"):
        run("correlate", file, "--plot", tmp_path / "none" / "x.png")


def test_a_bin_off_the_time_step_is_said(tmp_path: Path) -> None:
    batch = TagBatch(np.arange(100) * 2000, np.full(100, 1, np.int16), 0, 200_000)
    path = tmp_path / "x.tdc1"
    path.write_bytes(encode_tags(batch, "tdc1"))
    result = CliRunner().invoke(app, ["correlate", str(path), "--bin", "3ns", "--format", "tdc1"])
    assert result.exit_code == 0
    assert "no multiple of the 2000 ps time step" in result.stderr
    assert "no multiple" not in run("correlate", path, "--bin", "4ns", "--format", "tdc1")


@recorded
def test_hydraharp_counts_and_pulse_gap() -> None:
    assert run_json("info", HYDRAHARP)["clicks"] == {"0": 159_298, "1": 224_721}
    (row,) = run_json("coincidences", HYDRAHARP)["pairs"]
    assert row["coincidences"] == 1  # full width 1 ns
    assert 100 < row["accidentals"] < 200
    answer = run_json("coincidences", HYDRAHARP, "--delay", "1=23.94ns", "--period", "3.1282ns")
    assert 400 < answer["pairs"][0]["accidentals"] < 560  # those of other pulses, and no less
    assert all(abs(shift / 3128.2 - round(shift / 3128.2)) < 2e-3 for shift in answer["shifts_ps"])
    said = CliRunner().invoke(app, ["coincidences", str(HYDRAHARP)])
    assert "tell --period" in said.stderr


@recorded
def test_hydraharp_antibunching() -> None:
    """A pulsed dot: a peak every 3.128 ns, but for the one at equal arrival, 23.94 ns of cable."""
    got = run_json("correlate", HYDRAHARP, "--delay", "1=23.94ns", "--window", "80ns")
    delays, counts = np.array(got["delays_ps"]), np.array(got["counts"])
    pulse = np.rint(delays / 3128.2).astype(int)
    areas = {k: int(counts[pulse == k].sum()) for k in range(-10, 11)}
    assert areas.pop(0) == 2
    assert 450 < min(areas.values()) < max(areas.values()) < 560


@recorded
def test_g2_of_pulsed_light_needs_the_period_and_the_delay() -> None:
    untold = run_json("correlate", HYDRAHARP)
    assert untold["g2_zero"] is None
    assert "tell --period" in untold["note"]
    text = run("correlate", HYDRAHARP, "--period", "3.1282ns")
    assert "g2(0) =" not in text
    assert "beside zero delay" in text
    assert "2 pairs where others have 507, is at a delay of 23.9" in text
    told = run_json("correlate", HYDRAHARP, "--period", "3.1282ns", "--delay", "1=23.94ns")
    assert told["g2_zero"] == pytest.approx(2 / 510, rel=0.05)
    assert told["note"] == ""
    # another pulse is bright, and that is said
    told = run_json("correlate", HYDRAHARP, "--period", "3.1282ns", "--delay", "1=20.81ns")
    assert told["g2_zero"] == pytest.approx(1, abs=0.15)
    assert told["note"].startswith("the lowest pulse")
    said = CliRunner().invoke(app, ["correlate", str(HYDRAHARP), "--period", "1us"])
    assert said.exit_code == 2
    assert "single pulses" in " ".join(said.output.replace("│", " ").split())


def test_light_that_is_continuous_is_not_called_pulsed(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    for step in (1, 81, 2000):
        times = np.sort(rng.integers(0, 2 * 10**11 // step, 200_000)) * step
        channels = rng.integers(1, 3, times.size).astype(np.int16)
        path = tmp_path / f"{step}.bbt"
        with create_tags(path, resolution_ps=step) as file:
            file.write(TagBatch(times, channels, 0, 2 * 10**11))
        assert run_json("correlate", path, "--bin", "2ns")["g2_zero"] == pytest.approx(1, abs=0.1)
        assert not run_json("coincidences", path, "--window", "4ns")["pulsed"]


def test_rates_show_the_digits_of_their_errors(tmp_path: Path) -> None:
    path = tmp_path / "slow.bbt"
    with create_tags(path) as file:
        file.write(TagBatch(np.array([5, 10**15]), np.ones(2, np.int16), 0, 2 * 10**15))
    assert "0.00100 ± 0.00071" in run("rates", path)


@pytest.fixture
def chunked(tmp_path: Path) -> Path:
    """A bbt file of many chunks, 40,000 clicks in 1 s."""
    times = np.sort(np.random.default_rng(1).integers(0, 10**12, 40_000))
    whole = TagBatch(times, (np.arange(40_000) % 2).astype(np.int16), 0, 10**12)
    path = tmp_path / "chunked.bbt"
    with create_tags(path) as file:
        for k in range(1, 11):
            part, whole = whole.split(k * 10**11)
            file.write(part)
            file.flush()
    return path


def test_a_file_cut_off_is_said(chunked: Path, tmp_path: Path) -> None:
    assert "not closed" not in run("info", chunked)
    cut = tmp_path / "cut.bbt"
    cut.write_bytes(chunked.read_bytes()[: chunked.stat().st_size * 55 // 100])
    got = run_json("info", cut)
    assert not got["closed"]
    assert 0 < got["torn_bytes"] < 20_000
    assert f"{got['torn_bytes']:,} bytes of an unfinished" in " ".join(run("info", cut).split())
    for command in ("rates", "correlate", "coincidences"):
        said = CliRunner().invoke(app, [command, str(cut)])
        assert said.exit_code == 0
        assert "is not closed: still being written or cut off" in said.stderr


def test_damage_can_be_read_behind(chunked: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.bbt"
    octets = bytearray(chunked.read_bytes())
    octets[len(octets) // 2] ^= 0xFF
    damaged.write_bytes(octets)
    with pytest.raises(TagFileError, match="--damage mark"):
        run("rates", damaged)
    got = run_json("rates", damaged, "--damage", "mark")
    assert sum(row["clicks"] for row in got["rates"].values()) + got["lost"] == 40_000
    assert got["live_s"] == pytest.approx(0.9, abs=0.02)
    there = tmp_path / "there.bbt"
    run("convert", damaged, there, "--damage", "mark")
    assert run_json("rates", there)["lost"] == got["lost"]
