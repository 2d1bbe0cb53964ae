"""A bench's wires are recorded, and the recording stands for the bench: bytes, clicks and time."""

from __future__ import annotations

import json
import re
import runpy
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bellbench import Lab, open_bench
from bellbench.bench import check_bench
from bellbench.cli import app
from bellbench.drivers.transports.recording import Recorder, ReplayClock, read_recording
from bellbench.instruments import BellbenchError, ConfigError, InstrumentError, SystemClock
from bellbench.twins import start_world
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

HARDWARE = Path(__file__).parent / "hardware"
PUMP = HARDWARE / "pump.yaml"
RECORDED = HARDWARE / "recordings" / "pump.jsonl"
SCRIPT = HARDWARE / "pump_script.py"


def script(lab: Lab) -> dict[str, Any]:
    return runpy.run_path(str(SCRIPT), init_globals={"lab": lab})


def changed(folder: Path, edit: Callable[[list[str]], list[str]], *, mend: bool = True) -> Path:
    """A copy of the bundled recording, edited; with a right end unless that is the point."""
    lines = edit(RECORDED.read_text().splitlines())
    if mend:
        lines[-1] = json.dumps({"end": "complete", "lines": len(lines) - 1})
    path = folder / "changed.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


# -- the bench comes back, bit by bit


@pytest.mark.parametrize("bench", ["metro", "metro_tdc1"])
def test_every_wire_of_a_bench_replays_to_the_same_clicks_rates_and_times(
    bench: str, tmp_path: Path
) -> None:
    def session(lab: Lab) -> list[object]:
        told: list[object] = [lab.snapshot()]
        bob = lab.parties["bob"]
        bob.tagger.start()
        for _ in range(3):
            lab.clock.sleep(0.2)
            batch = bob.tagger.read()
            told += [batch.end_ps, batch.times_ps.tobytes(), batch.channels.tobytes()]
        bob.tagger.stop()
        told.append(lab.bob_snspd.measure_rates())
        lab.source.pump_current.set(0.05)
        return [*told, lab.pump.measured_current.get(), round(lab.clock.now(), 6)]

    path = tmp_path / "all.jsonl"
    with open_bench(bench, twin=True, seed=1, record=path) as lab:
        first = session(lab)
    begin = time.monotonic()
    with open_bench(bench, replay=path) as lab:
        assert lab.all_twins  # no instrument is real, so that no key made here is a secret
        again = session(lab)
        assert lab.clock.now() > 20
    assert time.monotonic() - begin < 10  # of 20 s and more of bench time
    assert isinstance(first[0], dict)
    assert isinstance(again[0], dict)
    for each in (first[0], again[0]):
        for content in each.values():
            content.pop("address", None)  # the one thing that differs
    assert again == first
    assert len(first[5]) > 8 * 1000  # type: ignore[arg-type]  # there were clicks


def test_the_bundled_recording_still_replays() -> None:
    with open_bench(PUMP, replay=RECORDED) as lab:
        found = script(lab)
        assert lab.pump.address == f"replay://{RECORDED}#pump"
    assert found["measured"] == pytest.approx(0.08, abs=1e-3)
    assert found["angle"] == pytest.approx(80.0, abs=0.1)


def test_a_bench_file_names_its_recording_relative_to_itself(tmp_path: Path) -> None:
    (tmp_path / "traffic").mkdir()
    (tmp_path / "traffic" / "p.jsonl").write_bytes(RECORDED.read_bytes())
    content = PUMP.read_text()
    content = content.replace("USB0::0x1313::0x804F::M00512345::INSTR", "replay://traffic/p.jsonl")
    content = content.replace("/dev/ttyUSB1", '"replay://traffic/p.jsonl#paddles"')
    bench = tmp_path / "bench.yaml"
    bench.write_text(content)
    with open_bench(bench) as lab:
        assert script(lab)["angle"] == pytest.approx(80.0, abs=0.1)


def test_one_instrument_is_replayed_beside_twins(tmp_path: Path) -> None:
    bench = tmp_path / "bench.yaml"
    bench.write_text(PUMP.read_text().replace("/dev/ttyUSB1", f"replay://{RECORDED}#paddles"))
    with open_bench(bench, seed=3, bring_up=False) as lab:
        assert lab.pump.address.startswith("TCPIP::127.0.0.1")
        lab.paddles.configure()
        assert not lab.paddles.ready()


# -- what does not match


def test_what_is_sent_must_be_what_was_sent() -> None:
    with (
        pytest.raises(InstrumentError) as caught,
        open_bench(PUMP, replay=RECORDED) as lab,
    ):
        lab.pump.current.set(0.07)
    lines = RECORDED.read_text().splitlines()
    line = next(i for i, text in enumerate(lines, 1) if "SOUR:CURR 0.08" in text)
    assert f"{RECORDED}:{line}: the recording sends b'SOUR:CURR 0.08' here" in str(caught.value)
    assert "sent b'SOUR:CURR 0.07'" in str(caught.value)
    # the bench is left without a word for each instrument that cannot be made safe
    assert len(getattr(caught.value, "__notes__", [])) <= 1


def test_doing_less_than_was_recorded_is_an_error() -> None:
    lab = open_bench(PUMP, replay=RECORDED)
    lab.pump.current.set(0.08)
    lab.clock.sleep(0.1)
    lab.pump.measured_current.get()
    with pytest.raises(InstrumentError, match="does less than when it was recorded") as caught:
        lab.close()
    assert "paddles" in str(caught.value)
    assert f"{RECORDED}:350" in str(caught.value)


def test_doing_more_than_was_recorded_is_an_error(tmp_path: Path) -> None:
    def without_the_end_of_the_pump(lines: list[str]) -> list[str]:
        last = max(i for i, text in enumerate(lines) if "MEAS:CURR" in text)
        return [t for i, t in enumerate(lines) if i < last or '"on": "pump"' not in t]

    path = changed(tmp_path, without_the_end_of_the_pump)
    with (
        pytest.raises(InstrumentError, match=r"changed.jsonl:\d+: the recording ends here"),
        open_bench(PUMP, replay=path) as lab,
    ):
        script(lab)


def test_an_answer_that_never_came_is_a_timeout_again(tmp_path: Path) -> None:
    def deaf(lines: list[str]) -> list[str]:
        at = next(i for i, text in enumerate(lines) if '"sent": "MEAS:CURR?"' in text)
        return lines[: at + 1] + lines[at + 2 :]

    path = changed(tmp_path, deaf)
    lab = open_bench(PUMP, replay=path)
    lab.pump.current.set(0.08)
    lab.clock.sleep(0.1)
    with pytest.raises(InstrumentError) as caught:
        lab.pump.measured_current.get()
    lab.abandon(caught.value)
    assert "the recording sends b'OUTP1:STAT OFF' here" in str(caught.value)  # the queue is asked


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (lambda lines: lines[:-1], r":\d+: the recording is truncated"),
        (lambda lines: [*lines[:9], lines[9][:20]], r":10: is not JSON"),
        (lambda lines: [lines[0].replace("recording/1", "recording/9"), *lines[1:]], "recording/9"),
        (lambda lines: ["pump: 1"], ":1: is not JSON"),
        (lambda lines: ["[]"], ":1: is not a line of a recording"),
        (lambda lines: [lines[0], "{}", *lines[2:]], ":2: is not a line of a recording"),
        (lambda lines: [lines[0], '{"t": 0, "sleep": NaN}', *lines[2:]], ":2: is not a line"),
        (
            lambda lines: [lines[0], '{"t": 0, "on": "pump", "sent": {"hex": "zz"}}', *lines[2:]],
            ":2: is not a line",
        ),
        (
            lambda lines: [lines[0], lines[1].replace('"pump"', '"lamp"'), *lines[2:]],
            ":2: the header names no instrument 'lamp'",
        ),
        (lambda lines: ["{}"], ":1: is no recording of this version: None"),
    ],
)
def test_a_damaged_recording_is_refused_with_its_place(
    tmp_path: Path, edit: Callable[[list[str]], list[str]], says: str
) -> None:
    path = changed(tmp_path, edit, mend=False)
    with pytest.raises(
        ConfigError, match=r"changed\.jsonl" + (says if says[0] == ":" else ".*" + says)
    ):
        read_recording(path)
    with pytest.raises(ConfigError, match=r"changed\.jsonl"):
        open_bench(PUMP, replay=path)


def test_a_bench_file_is_told_what_its_recording_lacks(tmp_path: Path) -> None:
    bench = tmp_path / "bench.yaml"
    bench.write_text(PUMP.read_text().replace("/dev/ttyUSB1", f"replay://{RECORDED}#paddle"))
    (error,) = check_bench(bench)
    assert "instruments.paddles.address" in str(error)
    assert "holds no 'paddle'; did you mean 'paddles'" in str(error)
    bench.write_text(PUMP.read_text().replace("/dev/ttyUSB1", "replay://none.jsonl"))
    (error,) = check_bench(bench)
    assert "cannot read the recording" in str(error)
    assert str(tmp_path / "none.jsonl") in str(error)


# -- the file


@given(
    st.lists(st.tuples(st.sampled_from(["sent", "received"]), st.binary(max_size=200))),
    st.sampled_from(["", "10.0.0.1:80"]),
)
def test_every_byte_comes_back(
    tmp_path_factory: pytest.TempPathFactory, said: list[tuple[Any, bytes]], channel: str
) -> None:
    path = tmp_path_factory.mktemp("r") / "r.jsonl"
    recorder = Recorder(path, SystemClock(), {"a": ("driver", "COM1")})
    for kind, data in said:
        recorder.note("a", kind, data, channel)
    recorder.close()
    entries = read_recording(path).entries
    assert [(e.kind, e.data, e.channel) for e in entries] == [(k, d, channel) for k, d in said]


def test_text_stays_readable(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    recorder = Recorder(path, SystemClock(), {"a": ("driver", "COM1")})
    recorder.note("a", "sent", b"*IDN?\r\n")
    recorder.note("a", "received", b"\x90\x04")
    assert not path.exists()
    recorder.close()
    _, sent, received, _ = map(json.loads, path.read_text().splitlines())
    assert sent["sent"] == "*IDN?\r\n"
    assert received["received"] == {"hex": "90 04"}


def test_a_recording_that_reaches_its_limit_says_so_and_replays_up_to_there(
    tmp_path: Path,
) -> None:
    path = tmp_path / "r.jsonl"
    recorder = Recorder(path, SystemClock(), {"a": ("driver", "COM1")}, limit_bytes=2000)
    for _ in range(100):
        recorder.note("a", "received", bytes(90))
    with pytest.raises(BellbenchError, match="reached its limit of 2000 bytes"):
        recorder.close()
    assert path.stat().st_size < 2100
    found = read_recording(path)
    assert found.cut
    assert 0 < len(found.entries) < 100


def test_a_recording_in_no_folder_is_refused_before_the_bench_opens(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot write the recording"):
        open_bench(PUMP, seed=1, record=tmp_path / "none" / "r.jsonl")


def test_wall_time_comes_back_to_the_last_digit(tmp_path: Path) -> None:
    """As on the table, where no two runs read the same times."""

    def session(lab: Lab) -> list[float]:
        times = []
        lab.paddles.actuators[0].set(89.0)
        while not lab.paddles.ready():
            times.append(lab.clock.now())
            lab.clock.sleep(0.02)
        return [*times, lab.clock.now(), lab.paddles.actuators[0].get(), lab.clock.now()]

    path, bench = tmp_path / "r.jsonl", tmp_path / "bench.yaml"
    with start_world(PUMP, seed=1, only=["paddles"], paced=True) as world:
        address = world.addresses["paddles"]  # as if it were a real one
        bench.write_text(
            "bellbench: bench/1\ninstruments:\n  paddles: {driver: thorlabs.mpc320, address:"
            f" '{address}', settings: {{paddles: [90 deg, 90 deg, 90 deg]}}, on_exit: leave}}\n"
        )
        with open_bench(bench, record=path) as lab:
            first = session(lab)
    with open_bench(bench, replay=path) as lab:
        assert session(lab) == first


def test_time_jumps_without_a_recording_too() -> None:
    clock = ReplayClock()
    clock.sleep(3600)
    assert clock.now() == 3600
    clock.close()


# -- the command


def test_record_writes_what_the_bundled_recording_holds(tmp_path: Path) -> None:
    out = tmp_path / "again.jsonl"
    arguments = ["record", str(PUMP), str(SCRIPT), "--seed", "1", "--out", str(out)]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output

    def content(path: Path) -> list[str]:
        return path.read_text().splitlines()[1:]  # the header tells ports and versions

    assert content(out) == content(RECORDED)
    with pytest.raises(ConfigError, match="exists already; --force replaces it"):
        CliRunner().invoke(app, arguments, catch_exceptions=False)


def test_record_without_a_script_reads_every_signal(tmp_path: Path) -> None:
    out = tmp_path / "idle.jsonl"
    arguments = ["record", str(PUMP), "--seconds", "2 s", "--seed", "1", "--out", str(out)]
    assert CliRunner().invoke(app, arguments, catch_exceptions=False).exit_code == 0
    with open_bench(PUMP, replay=out) as lab:
        assert lab.snapshot()["pump"]["signals"]["emission"]["value"] is True
        lab.clock.sleep(2)


# -- the pytest plugin

TESTS = """
import pytest

def test_current(lab):
    assert lab.pump.current.get() == {expected}

def test_other():
    pass

@pytest.mark.hardware
def test_serial_number(lab):
    assert lab.pump.identify().serial
"""


def run_pytest(folder: Path, *options: object) -> tuple[int, str]:
    command = [sys.executable, "-P", "-m", "pytest", "-p", "no:cacheprovider", "-W", "error"]
    # nothing here needs hypothesis, which takes a second to load
    command += ["-p", "no:hypothesispytest", "--strict-markers", "-rs", *map(str, options)]
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=120, check=False
    )
    return done.returncode, done.stdout + done.stderr


def test_one_test_file_passes_on_twins_and_on_its_recording(tmp_path: Path) -> None:
    (tmp_path / "test_bench.py").write_text(TESTS.format(expected="0.09"))
    bench = ["--bench", PUMP]
    code, said = run_pytest(tmp_path, *bench, "--twin", "--bench-record", "traffic")
    assert code == 0, said
    assert "2 passed, 1 skipped" in said
    assert "needs real instruments" in said
    names = [path.name for path in (tmp_path / "traffic").iterdir()]
    assert names == ["test_bench-test_current.jsonl"]
    code, said = run_pytest(tmp_path, *bench, "--bench-replay", "traffic")
    assert code == 0, said
    assert "2 passed, 1 skipped" in said

    # a failing test fails once, and its bench ends without a second error
    (tmp_path / "test_bench.py").write_text(TESTS.format(expected="0.01"))
    code, said = run_pytest(tmp_path, *bench, "--bench-replay", "traffic")
    assert code == 1
    assert re.search(r"1 failed, 1 passed, 1 skipped in", said), said


def test_on_hardware_the_addresses_of_the_file_are_opened(tmp_path: Path) -> None:
    (tmp_path / "test_bench.py").write_text(TESTS.format(expected="0.09"))
    bench = tmp_path / "table.yaml"
    bench.write_text(
        "bellbench: bench/1\ninstruments:\n  pump: {driver: thorlabs.cld1015,"
        " address: 'TCPIP::127.0.0.1::1::SOCKET', settings: {timeout: 1 s}}\n"
    )
    code, said = run_pytest(tmp_path, "--bench", bench, "--hardware")
    assert code == 1
    assert "1 passed, 2 errors" in said
    assert "127.0.0.1:1 refuses the connection" in said or "cannot reach 127.0.0.1:1" in said


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--twin", "--hardware"], "choose one of --twin, --hardware"),
        (["--hardware"], "--hardware needs --bench FILE"),
        (["--bench-record", "a", "--bench-replay", "a"], "choose one of --bench-record"),
        (["--bench", "a", "--hardware", "-n", "2"], "--hardware goes without -n"),
    ],
)
def test_options_that_contradict_each_other(tmp_path: Path, options: list[str], says: str) -> None:
    code, said = run_pytest(tmp_path, *options)
    assert code == 4
    assert says in said


def test_the_plugin_loads_nothing_heavy(tmp_path: Path) -> None:
    (tmp_path / "test_light.py").write_text(
        "import sys\n\ndef test_light():\n"
        "    heavy = {'numpy', 'pydantic', 'pyvisa', 'zmq', 'matplotlib', 'numba', 'scipy'}\n"
        "    assert 'bellbench.pytest_plugin' in sys.modules\n"
        "    assert not heavy & set(sys.modules)\n"
    )
    code, said = run_pytest(tmp_path)
    assert code == 0, said
