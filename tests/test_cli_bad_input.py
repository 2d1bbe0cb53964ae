"""The real command, misused: one clear error, a code that is not 0, nothing that looks finished."""

import base64
import contextlib
import io
import json
import os
import re
import select
import shutil
import signal
import socket
import stat
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import bellbench
import pytest
from bellbench import cli

COMMAND = [sys.executable, "-P", "-m", "bellbench"]
CONFIGS = Path(bellbench.__file__).parent / "configs"
BENCH = (CONFIGS / "benches/metro.yaml").read_text(encoding="utf-8")
WORLD = (CONFIGS / "worlds/metro.yaml").read_text(encoding="utf-8")
EXPERIMENT = (CONFIGS / "experiments/bbm92_metro.yaml").read_text(encoding="utf-8")

linux = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc, signals groups")


def changed(text: str, *edits: tuple[str, str]) -> str:
    for old, new in edits:
        assert old in text, old
        text = text.replace(old, new, 1)
    return text


def readdressed(text: str, address: Callable[[str], str]) -> str:
    """The bench without ``twin: true``, each address as ``address`` says by instrument."""
    lines, name = [], ""
    for line in changed(text, ("twin: true", "twin: false")).splitlines():
        if found := re.match(r"  (\w+):", line):
            name = found[1]
        if line.strip().startswith("address:"):
            line = f"    address: {address(name)}"
        lines.append(line)
    return "\n".join(lines) + "\n"


def ptu(announced: int, records: int) -> bytes:
    """A T2 file whose header announces any number of records."""
    tags = {
        b"Measurement_Mode": (0x10000008, struct.pack("<q", 2)),
        b"Measurement_SubMode": (0x10000008, struct.pack("<q", 0)),
        b"TTResultFormat_TTTRRecType": (0x10000008, struct.pack("<q", 0x01010204)),
        b"TTResultFormat_BitsPerRecord": (0x10000008, struct.pack("<q", 32)),
        b"MeasDesc_GlobalResolution": (0x20000008, struct.pack("<d", 1e-12)),
        b"TTResult_NumberOfRecords": (0x10000008, struct.pack("<q", announced)),
        b"Header_End": (0xFFFF0008, bytes(8)),
    }
    header = b"PQTTTR\0\0" + b"1.0.00\0\0"
    header += b"".join(
        struct.pack("<32siI", name, -1, kind) + value for name, (kind, value) in tags.items()
    )
    return header + struct.pack(f"<{records}I", *range(1000, 1000 + records))


def dead(name: str) -> str:
    """An address on this machine where nobody listens, of the form of the instrument's driver."""
    port = 1 + sum(map(ord, name)) % 800
    if name == "pump":
        return f"TCPIP::127.0.0.1::{port}::SOCKET"
    if name == "oven" or name.endswith("paddles"):
        return f"socket://127.0.0.1:{port}"
    return f"tcp://127.0.0.1:{port}"


#: Colours and borders of an interactive terminal are not what is tested.
PLAIN = {"NO_COLOR": "1", "COLUMNS": "200"}


@dataclass(frozen=True)
class Answer:
    code: int | str | None
    out: str
    err: str


def ask(folder: Path, arguments: Sequence[str]) -> Answer:
    """What the real command answers."""
    done = subprocess.run(
        [*COMMAND, *arguments],
        cwd=folder,
        env=os.environ | PLAIN,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return Answer(done.returncode, done.stdout, done.stderr)


def ask_here(folder: Path, arguments: Sequence[str]) -> Answer:
    """The same without a process of its own."""
    out, err = io.StringIO(), io.StringIO()
    handlers = {number: signal.getsignal(number) for number in signal.valid_signals()}
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["bellbench", *arguments])
        for name, value in PLAIN.items():
            patch.setenv(name, value)
        with pytest.raises(SystemExit) as ended:
            cli.main()
    for number, handler in handlers.items():
        if signal.getsignal(number) != handler:
            signal.signal(number, handler)
    return Answer(ended.value.code, out.getvalue(), err.getvalue())


# -- what is refused at once


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder, full of mistakes."""
    made = tmp_path_factory.mktemp("user")
    files = {
        "bench.yaml": changed(
            BENCH,
            ("world: metro\n", "world: world.yaml\n"),
            ("current: 90 mA", "current: 90 mW"),
            ("current_limit: 150 mA", "curent_limit: 150 mA"),
            ("channels: {1: H, 2: V", "channels: {1: H, 1: V"),
            ("tagger: bob_tagger", "tagger: bob_taggr"),
        ),
        "world.yaml": changed(WORLD, ("loss: 5.0309 dB", "loss: -5 dB")),
        "path.yaml": changed(WORLD, ("alice_fibre, alice_paddles", "alice_fibr, alice_paddles")),
        "loose.yaml": changed(BENCH, ("world: metro\n", "world: loose_world.yaml\n")),
        "loose_world.yaml": changed(WORLD, ("alice_snspd, alice_tagger]", "alice_snspd]")),
        "nobody.yaml": changed(BENCH, ("world: metro\n", "world: nobody_has_this.yaml\n")),
        "key.yaml": changed(
            EXPERIMENT,
            ("qber_tolerance: 3 %", "qber_tolerance: 60 %"),
            ("epsilon: 1e-10", "epsilon: 0"),
            ("leak_efficiency: 1.1", "leak_efficiency: 0.9"),
            ("expected_sifted_rate: 24 kHz", "expected_sifted_rate: 1e300 Hz"),
            ("coincidence_window: 300 ps", "coincidence_window: 300 dB"),
        ),
        "grid.yaml": changed(EXPERIMENT, ("time_grid: 10 ps", "time_grid: 10 ns")),
        "lost.yaml": changed(EXPERIMENT, ("bench: metro", "bench: nosuch.yaml")),
        "near.yaml": changed(EXPERIMENT, ("bench: metro", "bench: metr")),
        "of_bench.yaml": changed(EXPERIMENT, ("bench: metro", "bench: bench.yaml")),
        "good_world.yaml": WORLD,
        "good_bench.yaml": BENCH,
        "dead.yaml": changed(EXPERIMENT, ("bench: metro", "bench: dead_bench.yaml")),
        "dead_bench.yaml": readdressed(
            BENCH, lambda name: dead(name) if name == "alice_tagger" else "twin"
        ),
        "all_dead.yaml": changed(EXPERIMENT, ("bench: metro", "bench: all_dead_bench.yaml")),
        "all_dead_bench.yaml": changed(readdressed(BENCH, dead), ("twin: false", "twin: true")),
        "no_world.yaml": changed(EXPERIMENT, ("bench: metro", "bench: no_world_bench.yaml")),
        "no_world_bench.yaml": readdressed(BENCH, lambda name: f"twin://127.0.0.1:1/{name}"),
        "empty.yaml": "",
        "words.yaml": "just words\n",
        "broken.yaml": "a: [1\n",
        "file": "",
        "text.ptu": "these are no tags\n" * 20,
    }
    for name, text in files.items():
        (made / name).write_text(text, encoding="utf-8")
    (made / "binary.yaml").write_bytes(bytes(range(128, 256)))
    (made / "cut.ptu").write_bytes(ptu(100, 100)[:-6])
    (made / "lies.ptu").write_bytes(ptu(5000, 100))
    (made / "folder.yaml").mkdir()
    return made


RUN = ["run", "bbm92_metro"]

#: What a user types, the exit code, and what standard error must say.
MISTAKES: dict[str, tuple[list[str], int, list[str]]] = {
    "every mistake of a bench and its world": (
        ["check", "bench.yaml"],
        2,
        [
            r"^bench.yaml:17:25: instruments.pump.settings.current: unit 'mW' does not fit here;"
            r" use A, mA, .*; did you mean '90 mA'\?$",
            r"^bench.yaml:17:32: instruments.pump.settings.curent_limit: unknown key; did you mean"
            r" 'current_limit'\?$",
            r"^bench.yaml:68:22: parties.alice.channels.1: this key stands twice; first in line"
            r" 68$",
            r"^bench.yaml:70:13: parties.bob.tagger: no instrument 'bob_taggr'; did you mean"
            r" 'bob_tagger'\?$",
            r"^world.yaml:41:11: elements.alice_fibre.loss: should be greater than or equal to 0,"
            r" got '-5 dB'$",
        ],
    ),
    "the same when it is run": (
        ["run", "of_bench.yaml"],
        2,
        [r"bench.yaml:17:25: .*unit 'mW'", r"^world.yaml:41:11: .*-5 dB"],
    ),
    "a world": (
        ["check", "world.yaml"],
        2,
        [r"^world.yaml:41:11: elements.alice_fibre.loss: .* got '-5 dB'$"],
    ),
    "a path": (
        ["check", "path.yaml"],
        2,
        [r"^path.yaml:89:22: paths.0.1: no element 'alice_fibr'; did you mean 'alice_fibre'\?$"],
    ),
    "a tagger without clicks": (
        ["check", "loose.yaml"],
        2,
        [
            r"^loose_world.yaml:55:5: elements.alice_tagger: no path ends at 'alice_tagger'; name"
            r" it in one, or leave it out$"
        ],
    ),
    "a bench without its world": (
        ["twin", "serve", "nobody.yaml"],
        2,
        [r"^bellbench: nobody.yaml:4:8: world: nobody_has_this.yaml: no such file$"],
    ),
    "terms of a key": (
        ["check", "key.yaml"],
        2,
        [
            r"^key.yaml:9:21: coincidence_window: unit 'dB' does not fit here; use s, ",
            r"^key.yaml:13:19: key.qber_tolerance: should be less than 0.5, got '60 %'$",
            r"^key.yaml:14:12: key.epsilon: should be greater than or equal to 1e-60, got 0$",
            r"^key.yaml:15:20: key.leak_efficiency: should be greater than 1, got 0.9$",
            r"^key.yaml:17:25: key.expected_sifted_rate: should be less than or equal to"
            r" 1e\+09 Hz, got '1e300 Hz'$",
        ],
    ),
    "a grid wider than the window": (
        ["run", "grid.yaml"],
        2,
        [r"^bellbench: grid.yaml:18:14: key.time_grid: is wider than the coincidence_window$"],
    ),
    "an experiment without its bench": (
        ["run", "lost.yaml"],
        2,
        [r"^bellbench: lost.yaml:5:8: bench: nosuch.yaml: no such file$"],
    ),
    "a near miss in a file": (
        ["check", "near.yaml"],
        2,
        [r"^near.yaml:5:8: bench: no bundled file 'metr' in benches .*; did you mean 'metro'\?$"],
    ),
    "a near miss, to run": (
        ["run", "bbm92_metr"],
        2,
        [r"^bellbench: no bundled file 'bbm92_metr' .*; did you mean 'bbm92_metro'\?$"],
    ),
    "a world to run": (
        ["run", "good_world.yaml"],
        2,
        [r"^bellbench: good_world.yaml:1:12: is a 'world/1' file, 'experiment/1' is needed here$"],
    ),
    "a world to serve": (
        ["twin", "serve", "good_world.yaml"],
        2,
        [r"good_world.yaml:1:12: is a 'world/1' file, 'bench/1' is needed here$"],
    ),
    "no such file": (["run", "./nosuch"], 2, [r"^bellbench: nosuch: no such file$"]),
    "empty": (["check", "empty.yaml"], 2, [r"^empty.yaml: is empty$"]),
    "broken": (["check", "broken.yaml"], 2, [r"^broken.yaml:2:1: expected ',' or '\]'"]),
    "binary": (["run", "binary.yaml"], 2, [r"binary.yaml:1:1: is not UTF-8 text \(byte 0x80\)$"]),
    "a folder": (["check", "folder.yaml"], 2, [r"^folder.yaml: is a directory, not a YAML file$"]),
    "no time": ([*RUN, "--duration", "0s"], 2, [r"--duration: 0 s is out of range: above 0, at"]),
    "time back": ([*RUN, "--duration", "-1s"], 2, [r"--duration: -1 s is out of range: above 0"]),
    "ages": ([*RUN, "--duration", "1e9s"], 2, [r"1e\+09 s is out of range: above 0, at most 1e"]),
    "no unit": ([*RUN, "--duration", "5"], 2, [r"'5' has no unit; write for example '5 s'"]),
    "weight": ([*RUN, "--duration", "5 kg"], 2, [r"'--duration': unit 'kg' does not fit here;"]),
    "a seed below 0": ([*RUN, "--seed", "-1"], 2, [r"'--seed': .*greater than or equal to 0"]),
    "a file to keep runs in": (
        [*RUN, "--out", "file"],
        1,
        [r"^bellbench: cannot make the run folder file.*: Not a directory; choose another place"],
    ),
    "nobody at one address": (
        ["run", "dead.yaml", "--seed", "1"],
        1,
        [
            r"^bellbench: alice_tagger \(ID Quantique ID900\) at tcp://127.0.0.1:\d+: .* nobody"
            r" listens there; try: is it switched on",
            r"^what there is of the run: runs.dead-\d+-\d+\.failed$",
        ],
    ),
    "nobody at any address": (
        ["run", "all_dead.yaml", "--no-twin"],
        1,
        [
            r"^bellbench: cannot connect to$",
            *(rf"^  {name}: .*; try: " for name in ("oven", "pump", "alice_paddles", "bob_snspd")),
        ],
    ),
    "no world at its address": (
        ["run", "no_world.yaml"],
        1,
        [r"^bellbench: no world answers at 127.0.0.1:1 .*; start one with 'bellbench twin serve"],
    ),
    "no such twin": (
        ["twin", "serve", "metro", "--only", "aliec_tagger"],
        2,
        [r"metro.yaml: no twin 'aliec_tagger'; did you mean 'alice_tagger'\?$"],
    ),
    "a cut recording": (
        ["tags", "info", "cut.ptu"],
        1,
        [
            r"^bellbench: cut.ptu at byte \d+: the header announces 100 records, but 98 whole ones"
            r" and 2 bytes follow it: the file is truncated; copy it again$"
        ],
    ),
    "a recording that lies": (
        ["tags", "rates", "lies.ptu"],
        1,
        [r"^bellbench: lies.ptu at byte \d+: the header announces 5000 records, but 100 whole"],
    ),
    "no recording": (
        ["tags", "coincidences", "text.ptu"],
        1,
        [r"^bellbench: text.ptu at byte 0: is named .ptu but does not begin with PQTTTR: not a"],
    ),
    "no recording at all": (["tags", "info", "words.yaml"], 1, [r"is not a tag file I know"]),
}


#: Asked as processes, one of each way to end; the others in this one.
PROCESSES = {
    "every mistake of a bench and its world",
    "no unit",
    "nobody at one address",
    "no such twin",
    "a cut recording",
}


@pytest.fixture(scope="module")
def answers(folder: Path) -> dict[str, Answer]:
    return {
        name: (ask if name in PROCESSES else ask_here)(folder, arguments)
        for name, (arguments, _, _) in MISTAKES.items()
    }


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_clear_error(answers: dict[str, Answer], mistake: str) -> None:
    _, code, patterns = MISTAKES[mistake]
    answer = answers[mistake]
    assert answer.code == code, answer.err
    assert "Traceback" not in answer.err
    for pattern in patterns:
        assert re.search(pattern, answer.err, re.MULTILINE), answer.err


def test_the_list_of_mistakes_is_whole_and_in_order(answers: dict[str, Answer]) -> None:
    for mistake in ("every mistake of a bench and its world", "terms of a key", "a path"):
        assert len(answers[mistake].err.splitlines()) == len(MISTAKES[mistake][2])


def test_no_mistake_leaves_a_run_that_looks_finished(
    answers: dict[str, Answer], folder: Path
) -> None:
    runs = sorted(path.name for path in (folder / "runs").iterdir())
    # those that were fit to begin, and met nobody
    assert [re.sub(r"-\d+-\d+", "", name) for name in runs] == [
        "all_dead.failed",
        "dead.failed",
        "no_world.failed",
    ]
    for name in runs:
        assert (
            "listens" in (folder / "runs" / name / "error.txt").read_text()
            or "no world" in (folder / "runs" / name / "error.txt").read_text()
        )


def test_a_port_that_is_taken(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        answer = ask(tmp_path, ["twin", "serve", "metro", "--only", "pump", "--port", str(port)])
    assert answer.code == 1
    assert answer.err.startswith(f"bellbench: cannot bind the control port 127.0.0.1:{port} (")
    assert answer.err.endswith("; leave the port out to take a free one\n")


# -- one run that is right


@dataclass(frozen=True)
class Run:
    answer: Answer
    folder: Path
    keys: tuple[bytes, bytes]


@dataclass
class Ending:
    """A run that was ended from outside."""

    code: int
    said: str
    folders: list[Path]
    world_ended: bool


def run_well(made: Path, experiment: Path) -> Run:
    answer = ask(made, ["run", str(experiment), "--seed", "1", "--duration", "0.3s", "--json"])
    (run,) = (made / "runs").iterdir()
    alice, bob = ((run / f"{party}.key").read_bytes() for party in ("alice", "bob"))
    return Run(answer, run, (alice, bob))


@pytest.fixture(scope="module")
def good(runs: tuple[Run, dict[str, Ending]]) -> Run:
    return runs[0]


def test_json_is_one_object_and_nothing_else(good: Run) -> None:
    assert good.answer.code == 0, good.answer.err
    assert good.answer.out.count("\n") == 1
    metrics = json.loads(good.answer.out)
    assert metrics == json.loads((good.folder / "metrics.json").read_text())
    assert metrics["secret_key_bits"] > 0


def test_a_finished_run_has_its_name(good: Run) -> None:
    assert re.fullmatch(r"bbm92_metro-\d{8}-\d{6}", good.folder.name)


@pytest.mark.skipif(sys.platform == "win32", reason="modes as POSIX has them")
def test_keys_and_reports_are_the_users_alone(good: Run) -> None:
    """The reports tell of single clicks, which are not public."""
    for path in good.folder.iterdir():
        mode = stat.S_IMODE(path.stat().st_mode)
        secret = path.suffix == ".key" or path.stem == "report"
        assert (mode == 0o600) == secret, path


def test_no_key_stands_anywhere_but_in_its_file(good: Run) -> None:
    alice, bob = good.keys
    assert alice == bob
    assert len(alice) > 8
    head = alice[:6]  # 48 bits: once in 3e14 by chance
    traces = {
        head,
        head.hex().encode(),
        head.hex().upper().encode(),
        base64.b64encode(alice)[:8],
        ", ".join(map(str, head)).encode(),
        "".join(f"{byte:08b}" for byte in head).encode(),
        ", ".join("".join(f"{byte:08b}" for byte in head)).encode(),
    }
    seen = {"stdout": good.answer.out.encode(), "stderr": good.answer.err.encode()}
    seen |= {p.name: p.read_bytes() for p in good.folder.iterdir() if p.suffix != ".key"}
    assert len(seen) > 8
    assert [(name, t) for name, data in seen.items() for t in traces if t in data] == []


# -- what ends a run before its time


def child_of(pid: int) -> int:
    """The world that a run has started."""
    (child,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(child)


def ends(pid: int, timeout_s: float = 20.0) -> bool:
    """Whether a process that is no child of ours ends in time."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    with os.fdopen(handle, "rb"):
        return bool(select.select([handle], [], [], timeout_s)[0])


def wait_for(stage: str, output: IO[str]) -> None:
    said = ""
    for line in output:
        said += line
        if line.startswith(stage):
            return
    raise AssertionError(f"the run ended by itself:\n{said}")


def end(
    out: Path,
    how: Callable[[subprocess.Popen[str], Path], None],
    experiment: Path,
    *,
    own_world: bool = True,
) -> Ending:
    """Start a run that would last for hours, and end it."""
    with subprocess.Popen(
        [*COMMAND, "run", str(experiment), "--seed", "1", "--duration", "9000s"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        cwd=out,
    ) as run:
        assert run.stdout is not None
        try:
            # in the midst of the key, or (which costs less) of the calibration
            wait_for("exchanging" if how is ctrl_c else "recording", run.stdout)
            world = child_of(run.pid) if own_world else None
            how(run, out)
            said = "" if run.stdout.closed else run.stdout.read()
            code = run.wait(60)
        finally:
            run.kill()
    gone = world is None or ends(world)
    return Ending(code, said, sorted((out / "runs").glob("*")), gone)


def ctrl_c(run: subprocess.Popen[str], out: Path) -> None:
    os.killpg(run.pid, signal.SIGINT)  # a terminal tells the whole group, the world too


def kill(run: subprocess.Popen[str], out: Path) -> None:
    run.kill()


def kill_the_world(run: subprocess.Popen[str], out: Path) -> None:
    os.kill(child_of(run.pid), signal.SIGKILL)


def delete_the_folder(run: subprocess.Popen[str], out: Path) -> None:
    shutil.rmtree(out / "runs")
    os.killpg(run.pid, signal.SIGHUP)  # as when the terminal is closed


def read_no_more(run: subprocess.Popen[str], out: Path) -> None:
    assert run.stdout is not None
    run.stdout.close()


#: The one that waits longest for answers first.
ENDS = (kill_the_world, ctrl_c, delete_the_folder, kill, read_no_more)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, warm: Path) -> tuple[Run, dict[str, Ending]]:
    """All that run long, some at a time: the good one, and those that end before their time."""
    experiment = warm / "bbm92_metro.yaml"
    with ThreadPoolExecutor(3) as pool:
        ended = {
            how.__name__: pool.submit(end, tmp_path_factory.mktemp(how.__name__), how, experiment)
            for how in ENDS
            if sys.platform == "linux"
        }
        well = pool.submit(run_well, tmp_path_factory.mktemp("good"), experiment)
        return well.result(), {name: ending.result() for name, ending in ended.items()}


@pytest.fixture(scope="module")
def endings(runs: tuple[Run, dict[str, Ending]]) -> dict[str, Ending]:
    return runs[1]


def without_progress(said: str) -> list[str]:
    stages = ("recording", "finding", "exchanging")
    return [line for line in said.splitlines() if not line.startswith(stages)]


def failed(ending: Ending) -> str:
    """The text of the one failed run's error."""
    (folder,) = ending.folders
    assert folder.name.endswith(".failed")
    assert not list(folder.glob("*.key"))
    assert not (folder / "metrics.json").exists()
    return (folder / "error.txt").read_text(encoding="utf-8")


@linux
def test_ctrl_c_ends_a_run_in_order(endings: dict[str, Ending]) -> None:
    ending = endings["ctrl_c"]
    assert ending.code == 128 + signal.SIGINT, ending.said
    assert ending.world_ended
    last = without_progress(ending.said)
    # no word of an instrument that could not be made safe
    assert last[0] == "bellbench: stopped by SIGINT"
    assert last[1].startswith("what there is of the run: ")
    assert len(last) == 2, ending.said
    assert "stopped by SIGINT" in failed(ending)


@linux
def test_a_run_that_is_killed_takes_its_world_along_and_does_not_look_finished(
    endings: dict[str, Ending],
) -> None:
    ending = endings["kill"]
    assert ending.code == -signal.SIGKILL
    assert ending.world_ended
    (folder,) = ending.folders
    assert folder.name.endswith(".running")


@linux
def test_a_world_that_is_killed_ends_the_run_with_its_name(endings: dict[str, Ending]) -> None:
    ending = endings["kill_the_world"]
    assert ending.code == 1
    last = without_progress(ending.said)
    assert re.fullmatch(
        r"bellbench: the world at 127\.0\.0\.1:\d+ has ended \(killed by signal 9,.*\)", last[0]
    )
    assert len(last) == 2, ending.said
    assert "has ended (killed by signal 9" in failed(ending)


@linux
def test_a_run_whose_folder_is_deleted_ends_all_the_same(endings: dict[str, Ending]) -> None:
    ending = endings["delete_the_folder"]
    assert ending.code == 128 + signal.SIGHUP
    assert "Traceback" not in ending.said
    assert "while closing the run folder" in ending.said
    assert "No such file or directory" in ending.said
    assert ending.world_ended
    assert ending.folders == []


@linux
def test_a_run_whose_output_nobody_reads_ends(endings: dict[str, Ending]) -> None:
    ending = endings["read_no_more"]
    assert ending.code == 1
    assert ending.world_ended
    assert "nobody reads the output any more" in failed(ending)


@linux
def test_an_output_on_a_full_disk(tmp_path: Path) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*COMMAND, "check", "metro"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            timeout=60,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr == "bellbench: cannot read or write: [Errno 28] No space left on device\n"


# -- safe means safe


@pytest.fixture
def served(warm: Path) -> Iterator[dict[str, str]]:
    """Twins that outlive the run: their addresses, and where their world answers."""
    with subprocess.Popen(
        [*COMMAND, "twin", "serve", str(warm / "metro.yaml"), "--stepped", "--seed", "1"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    ) as server:
        assert server.stdout is not None
        found = {}
        for line in server.stdout:
            told = json.loads(line)
            if "control" in told:
                found["control"] = told["control"]
                break
            found[told["instrument"]] = told["address"]
        try:
            yield found
        finally:
            server.terminate()


def emission(address: str) -> str:
    """Ask the pump, as another program would, whether its laser is on."""
    port = int(address.split("::")[2])
    with (
        contextlib.closing(socket.create_connection(("127.0.0.1", port), timeout=20)) as pump,
        pump.makefile("rw", newline="\n") as lines,
    ):
        lines.write("OUTP1:STAT?\n")
        lines.flush()
        return lines.readline().strip()


@linux
def test_a_stopped_run_leaves_the_laser_dark(tmp_path: Path, served: dict[str, str]) -> None:
    bench = readdressed(BENCH, lambda name: f"twin://{served['control']}/{name}")
    (tmp_path / "bench.yaml").write_text(bench)
    experiment = changed(EXPERIMENT, ("bench: metro", "bench: bench.yaml"))
    file = tmp_path / "served.yaml"
    file.write_text(experiment)
    before = []

    def look_and_end(run: subprocess.Popen[str], out: Path) -> None:
        before.append(emission(served["pump"]))
        run.terminate()

    ending = end(tmp_path, look_and_end, file, own_world=False)
    assert ending.code == 128 + signal.SIGTERM
    assert before == ["1"]
    assert emission(served["pump"]) == "0"
    assert without_progress(ending.said)[0] == "bellbench: stopped by SIGTERM"
    assert "while ending the bench" not in ending.said
    failed(ending)
