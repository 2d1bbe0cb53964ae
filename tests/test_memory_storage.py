"""`bellbench run memory_storage`: through wires, drivers and protocol, against closed forms."""

import dataclasses
import io
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import bellbench
import pytest
from bellbench import testing
from bellbench.bench import load_bench
from bellbench.configs import ConfigErrors, bundled
from bellbench.experiments import ExperimentConfig, load_experiment, run_experiment, summary
from bellbench.instruments import InstrumentError

SEED = 3
TIMES = (22e-6, 40e-6, 50e-6)
SHORT = {
    "storage_times: [22 us, 30 us, 40 us, 50 us, 65 us]": "storage_times: [22 us, 40 us, 50 us]",
    "duration: 1 s ": "duration: 0.5 s ",
    "calibration: 1 s ": "calibration: 0.3 s ",
}


def write(folder: Path, changes: dict[str, str]) -> Path:
    """The bundled experiment with other words."""
    text = bundled("experiments")["memory_storage"].read_text(encoding="utf-8")
    for old, new in changes.items():
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    path = folder / "storage.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("experiment"), SHORT)


@pytest.fixture(scope="module")
def command(
    short: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Any], Path, ExperimentConfig]:
    """The command as a user types it: its figures, its run folder, its configuration."""
    out = tmp_path_factory.mktemp("command")
    options = ["--json", "--seed", str(SEED), "--out", str(out)]
    result = subprocess.run(
        [sys.executable, "-P", "-m", "bellbench", "run", str(short), *options],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    (folder,) = out.iterdir()
    return json.loads(result.stdout), folder, load_experiment(short)


class Closed:
    """What the world file's numbers make of it: thermal pairs on threshold detectors.

    The source emits HH and VV, each into K Schmidt modes: 2 K thermal modes in all. What a click
    sees of one pulse is a share of each photon, so that silence has a closed form.
    """

    def __init__(self, config: ExperimentConfig) -> None:
        world = config.bench.world
        assert world is not None
        of: Any = world.elements
        crystal, memory, fast = of["crystal"], of["memory"], of["snspd"].detectors
        power = of["pump"].slope * (90e-3 - of["pump"].threshold)
        self.mean = crystal.pair_rate * power * crystal.pulse_width
        self.modes = 2 * crystal.schmidt_number
        self.herald = loss(of["herald_fibre"]) * fast[0].efficiency
        self.behind = loss(of["splitter"]) * fast[1].efficiency
        self.before = loss(of["signal_fibre"])
        self.memory = memory
        self.dark_hz = fast[1].dark_rate
        settings: Any = config.bench.instruments["memory"].settings
        self.burned = 1 - math.exp(-settings.burn / memory.burn_time)
        self.gate = 40e-9
        self.noise = memory.noise * self.gate / memory.mode_duration

    def kept(self, storage_s: float) -> float:
        """Share of the light that comes in that is recalled."""
        waited = (storage_s - self.memory.echo_time) / self.memory.spin_coherence_time
        return float(self.memory.efficiency) * self.burned * math.exp(-(waited**2))

    def silent(self, *shares: float) -> float:
        """No click of any unit, each of which sees its share of the pairs of a pulse."""
        seen = 1 - math.prod(1 - share for share in shares)
        return float((1 + self.mean / self.modes * seen) ** -self.modes)

    def gates(self, share: float, others: tuple[float, ...] = (), noise: float = 0.0) -> Any:
        """Probabilities, of a partner of which ``share`` clicks, other light beside: P(click|h),
        P(click), and the heralded g2."""
        h = self.silent(self.herald)

        def given(part: float) -> float:  # silence given a herald, of c or of both
            both = (self.silent(share * part) - self.silent(share * part, self.herald)) / (1 - h)
            return both * aside(part)

        def aside(part: float) -> float:
            beside = math.prod(self.silent(other * part) for other in others)
            # half of the darks are those of each detector
            steady = (noise + 2 * self.dark_hz * self.gate) * part
            return beside * math.exp(-steady)

        one, two = 1 - given(0.5), 1 - given(1.0)
        at_random = 1 - self.silent(share) * aside(1.0)
        return two, at_random, (2 * one - two) / one**2


def loss(element: Any) -> float:
    return float(10 ** (-element.loss / 10))


def within(measured: dict[str, float], expected: float, sigmas: float = 3.0) -> None:
    off = (measured["value"] - expected) / measured["sigma"]
    assert abs(off) < sigmas, f"{measured} is {off:+.1f} sigma from {expected:.5g}"


def net(probability: float, at_random: float) -> float:
    return (probability - at_random) / (1 - at_random)


def test_heralding_of_the_reference(command: Any) -> None:
    metrics, _, config = command
    closed = Closed(config)
    through = closed.before * closed.memory.transparency * closed.behind
    click, at_random, g2 = closed.gates(through)
    found = metrics["heralding_efficiency"]
    within(found, net(click, at_random))
    # transmission x detector efficiency, but for pairs that come together
    assert found["value"] == pytest.approx(through, rel=closed.mean)
    within(metrics["heralded_g2"], g2)
    assert g2 < 2 * closed.mean * (1 + 1 / closed.modes)  # to leading order, small efficiencies
    within(metrics["cross_g2"], click / at_random)


def test_efficiency_g2_and_signal_to_noise_of_every_storage_time(command: Any) -> None:
    metrics, _, config = command
    closed = Closed(config)
    into, behind = closed.before, closed.behind
    reference = net(*closed.gates(into * closed.memory.transparency * behind)[:2])
    echo = closed.kept(closed.memory.echo_time)
    noise = closed.noise * behind
    assert [row["storage_s"] for row in metrics["storage"]] == pytest.approx(TIMES)
    for row in metrics["storage"]:
        share = into * closed.kept(row["storage_s"]) * behind
        # Light that comes later is not gated away: it leaks, and what came after the transfer
        # echoes. For the first storage time that meets a part of the window only.
        whole = row["storage_s"] >= closed.memory.echo_time + 18e-6
        others = (into * (1 - closed.memory.absorption) * behind, into * echo * behind)
        click, at_random, g2 = closed.gates(share, others if whole else others[:1], noise)
        within(row["efficiency"], net(click, at_random) / reference)
        if not whole:
            continue
        within(row["heralded_g2"], g2)
        within(row["cross_g2"], click / at_random)
        steady = noise + 2 * closed.dark_hz * closed.gate
        within(row["snr"], click / steady - 1)
    share = into * echo * behind
    click, at_random, _ = closed.gates(share, others[:1])
    within(metrics["echo_efficiency"], net(click, at_random) / reference, 3.5)


def test_lifetime_and_noise_are_the_worlds(command: Any) -> None:
    metrics, _, config = command
    closed = Closed(config)
    within(metrics["lifetime_s"], closed.memory.spin_coherence_time)
    within(
        metrics["efficiency_at_echo"],
        closed.memory.efficiency * closed.burned / closed.memory.transparency,
    )
    assert metrics["chi2"] < 12  # of one degree of freedom
    assert metrics["degrees"] == 1
    within(metrics["noise_clicks_per_mode"], closed.memory.noise * closed.behind)
    within(metrics["noise_photons_per_mode"], closed.memory.noise)
    per_gate = closed.noise * closed.behind + 2 * closed.dark_hz * closed.gate
    within(metrics["noise_clicks_per_gate"], per_gate)
    efficiency = closed.kept(TIMES[0]) / closed.memory.transparency
    within(metrics["mu1"], per_gate / closed.behind / efficiency)


def test_what_a_run_leaves_behind(command: Any) -> None:
    metrics, folder, config = command
    assert not metrics["aborted"]
    assert metrics["modes"] == 90
    assert 88 <= metrics["modes_used"] <= 90
    rates = metrics["singles_hz"]["node"]
    assert rates["trigger"] == pytest.approx(10_000, rel=1e-3)
    assert {path.name for path in folder.iterdir()} == {
        *("bench.yaml", "experiment.yaml", "versions.json", "snapshot.json", "metrics.json"),
        *("arrivals.png", "efficiency.png"),
    }
    again = load_experiment(folder / "experiment.yaml")
    assert again.file.model_copy(update={"bench": config.file.bench}) == config.file
    assert again.bench.instruments == config.bench.instruments
    snapshot = json.loads((folder / "snapshot.json").read_text(encoding="utf-8"))
    assert snapshot["memory"]["signals"]["state"]["value"] == "idle"


def test_the_figures_as_a_person_reads_them(command: Any) -> None:
    from bellbench.experiments import Outcome
    from rich.console import Console

    metrics, folder, _ = command
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(summary(Outcome(metrics, folder)))
    text = console.export_text()
    for words in ("heralding efficiency", "stored 40 us", "lifetime", "photons", "mu1"):
        assert words in text


@pytest.mark.slow  # as in end_to_end, of every run
@pytest.mark.usefixtures("no_pictures")
def test_the_same_seed_gives_the_same_figures(command: Any, tmp_path: Path) -> None:
    metrics, _, config = command
    again = run_experiment(config, seed=SEED, out=tmp_path).metrics
    assert again.pop("wall_s") > 0
    assert again == {key: value for key, value in metrics.items() if key != "wall_s"}


def test_a_blocked_source_is_a_failed_result(short: Path, tmp_path: Path) -> None:
    config = load_experiment(short)
    pump = config.bench.instruments["pump"]
    dark = dataclasses.replace(
        pump, settings=pump.settings.model_copy(update={"current": 30e-3})
    )  # below threshold
    bench = dataclasses.replace(
        config.bench, instruments={**config.bench.instruments, "pump": dark}
    )
    outcome = run_experiment(
        dataclasses.replace(config, bench=bench), seed=SEED, out=tmp_path / "runs"
    )
    assert outcome.metrics["aborted"]
    assert "no coincidence peak" in outcome.metrics["reason"]
    assert outcome.metrics["lifetime_s"] is None
    json.dumps(outcome.metrics, allow_nan=False)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"[22 us, 30 us, 40 us, 50 us, 65 us]": "[22 us, 71 us]"},
            r"storage\.yaml:7:24: storage_times\.1: 'memory' of .* stores for 20\.5 us to 69 us,"
            r" not for 71 us; its settings say: cycle 100 us, echo 20 us",
        ),
        (
            {"[22 us, 30 us, 40 us, 50 us, 65 us]": "[20 us, 30 us]"},
            r"storage_times\.0: .* not for 20 us",
        ),
        ({"[22 us, 30 us, 40 us, 50 us, 65 us]": "[22 us, 22 us]"}, "stands there twice"),
        ({"[22 us, 30 us, 40 us, 50 us, 65 us]": "[22 us]"}, "needs 2 or more items"),
        ({"gate: 40 ns": "gate: 300 ns"}, "gate: is wider than a mode of 'memory', 0.2 us"),
        ({"bench: memory": "bench: metro"}, "needs a party 'node'"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_opened(
    tmp_path: Path, change: dict[str, str], words: str
) -> None:
    with pytest.raises(ConfigErrors, match=words):
        load_experiment(write(tmp_path, change))


def test_a_memory_that_says_no_leaves_the_bench_safe(short: Path, tmp_path: Path) -> None:
    config = load_experiment(short)
    file = config.file.model_copy(update={"storage_times": (22e-6, 80e-6)})  # past the check
    with pytest.raises(InstrumentError, match=r"cannot store for 80 us, only for 20\.5 us to 69"):
        run_experiment(dataclasses.replace(config, file=file), seed=1, out=tmp_path / "runs")
    folders = [path for path in (tmp_path / "runs").iterdir() if (path / "metrics.json").exists()]
    assert not folders


def test_the_memory_on_its_twin() -> None:
    with bellbench.open_bench("memory", seed=1, bring_up=False) as lab:
        kind, sequencer = type(lab.memory), lab.sequencer
        testing.check_quantum_memory(lab.memory, lab.clock)
        again = type(sequencer)("again", sequencer.address, type(sequencer).Settings(), lab.clock)
        settings = load_bench("memory").instruments["memory"].settings
        testing.check_instrument(lambda: kind("memory", {"sequencer": again}, settings, lab.clock))
        lab.memory.prepare()
        lab.memory.store()
        lab.memory.retrieve(33.333333e-6)
        lab.clock.sleep(0.1)
        assert sequencer.events() == ("triggered", "cycle ended")  # no trigger was ignored
        assert lab.memory.storage_time.get() == pytest.approx(33.333333e-6, abs=5e-12)
