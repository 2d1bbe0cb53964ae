"""BBM92 on drifting fibres through wires: the lock brings a link back and holds it."""

import dataclasses
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from bellbench.bench import load_bench
from bellbench.configs import find_config
from bellbench.experiments import ExperimentConfig, load_experiment, run_experiment, summary
from bellbench.experiments.bbm92_drift import LinkStabilizer, LockTerms, _station
from bellbench.instruments import ConfigError, Limits, PolarizationStabilizer, Settable
from bellbench.protocols.lock import PolarizationLock, RetarderStation, Station
from rich.console import Console

HELD = 0.015
ALIGNED = (151.01, 135.01, 88.23)


def with_alice_at(config: ExperimentConfig, angles: Sequence[float]) -> ExperimentConfig:
    instruments = dict(config.bench.instruments)
    old = instruments["alice_paddles"]
    settings = old.settings.model_validate(old.settings.model_dump() | {"paddles": tuple(angles)})
    instruments["alice_paddles"] = dataclasses.replace(old, settings=settings)
    return dataclasses.replace(
        config, bench=dataclasses.replace(config.bench, instruments=instruments)
    )


@pytest.fixture(scope="module")
def misaligned(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """48 s that begin with two of Alice's paddles 6 degrees off: 6 % of errors."""
    config = load_experiment("bbm92_drift", duration=48.0)
    off = (ALIGNED[0] - 6, ALIGNED[1] + 6, ALIGNED[2])
    outcome = run_experiment(
        with_alice_at(config, off), seed=3, out=tmp_path_factory.mktemp("runs")
    )
    return outcome.metrics, outcome.folder


def test_the_lock_brings_a_misaligned_link_back(
    misaligned: tuple[dict[str, Any], Path],
) -> None:
    metrics, _ = misaligned
    off, on = (metrics["qber_over_time"][label] for label in ("off", "on"))
    assert min(off) > 0.04
    assert metrics["lock_off"]["aborted"]
    assert "above tolerance 2.50%" in metrics["lock_off"]["reason"]
    assert metrics["lock_off"]["secret_key_bits"] == 0
    late = on[2 * len(on) // 3 :]
    assert sum(late) / len(late) < metrics["optimum"] + HELD
    lock = metrics["lock"]
    assert lock["state"] == "locked"
    assert [state for _, state in lock["states"]][:3] == ["idle", "dithering", "locked"]
    assert 12 <= lock["moves"] <= 32  # 48 s x 450 bits/s, 625 for each, and the moves between


def test_both_runs_see_the_same_drift(misaligned: tuple[dict[str, Any], Path]) -> None:
    """Up to the first move the worlds are the same, click by click."""
    metrics, _ = misaligned
    for key in ("delays_ps", "visibility_z", "visibility_x", "car"):
        assert metrics["lock_off"][key] == metrics["lock_on"][key]


def test_what_is_left_of_it(misaligned: tuple[dict[str, Any], Path]) -> None:
    metrics, folder = misaligned
    names = {path.name for path in folder.iterdir()}
    assert {
        "drift.png",
        "metrics.json",
        "snapshot_lock_off.json",
        "snapshot_lock_on.json",
    } <= names
    kept = {name for name in names if name.endswith(".key")}
    expected = set()
    if not metrics["lock_on"]["aborted"]:
        expected = {"lock_on_alice.key", "lock_on_bob.key"}
    assert kept == expected
    (bits,) = {len(series) for series in metrics["bits_over_time"].values()}
    assert bits == len(metrics["times_s"]) == round(48 / metrics["bin_s"])
    console = Console(file=io.StringIO(), width=120)
    from bellbench.experiments import Outcome

    console.print(summary(Outcome(metrics, folder)))
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
    for words in ("lock off", "aborted", "lock on", "points on average", "lock locked at the end"):
        assert words in shown


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_it_holds_for_an_hour_where_the_link_fails_without(tmp_path: Path) -> None:
    config = load_experiment("bbm92_drift", duration=3600.0)
    metrics = run_experiment(config, seed=1, out=tmp_path).metrics
    off, on = (metrics["qber_over_time"][label] for label in ("off", "on"))
    assert len(on) == 60  # minutes
    assert max(on) < metrics["optimum"] + HELD
    assert max(off[10:]) > 0.05
    assert metrics["lock_off"]["aborted"]
    assert not metrics["lock_on"]["aborted"]
    assert metrics["lock_on"]["secret_key_bits"] > 1_000_000


@pytest.mark.slow
def test_the_same_seed_gives_the_same_figures(tmp_path: Path) -> None:
    config = load_experiment("bbm92_drift", duration=15.0)
    first, again = (run_experiment(config, seed=8, out=tmp_path).metrics for _ in range(2))
    assert first | {"wall_s": 0} == again | {"wall_s": 0}
    assert first["lock"]["moves"] > 3


# -- what it needs


def changed(tmp_path: Path, *replacements: tuple[str, str]) -> Path:
    text = find_config("bbm92_drift", "experiments").read_text(encoding="utf-8")
    for old, new in replacements:
        assert old in text
        text = text.replace(old, new)
    path = tmp_path / "experiment.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("replacement", "words"),
    [
        (("monitor_fraction: 33 %", "monitor_fraction: 0 %"), "must be above 0: the lock steers"),
        (("dither: 0.2 %", "dither: 0.2 %\n  lost: 2 %"), "is below the qber_tolerance"),
        (("optimum: 1 %", "optimum: 0 %"), "optimum"),
    ],
)
def test_terms_that_do_not_fit_are_refused(
    tmp_path: Path, replacement: tuple[str, str], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        load_experiment(changed(tmp_path, replacement))


def test_a_bench_without_paddles_is_refused(tmp_path: Path) -> None:
    text = find_config("drift", "benches").read_text(encoding="utf-8")
    for party in ("alice", "bob"):
        text = text.replace(f"    controller: {party}_paddles\n", "")
    bench = tmp_path / "still.yaml"
    bench.write_text(text, encoding="utf-8")
    load_bench(bench)
    with pytest.raises(ConfigError, match="needs a controller at alice or bob"):
        load_experiment(changed(tmp_path, ("bench: drift", "bench: still.yaml")))


class Paddle:
    unit = "deg"
    limits = Limits(0.0, 170.0)

    def __init__(self, name: str) -> None:
        self.name, self.angle = name, 40.0

    def get(self) -> float:
        return self.angle

    def set(self, value: float) -> None:
        self.angle = value


class Controller:
    def __init__(self) -> None:
        self.actuators: list[Settable[float]] = [Paddle(f"paddle_{i}") for i in (1, 2, 3)]
        self.moving = False

    def ready(self) -> bool:
        return not self.moving


def test_each_paddle_needs_its_retardance_and_three_are_needed() -> None:
    controller = Controller()
    two = LockTerms(optimum=0.01, retardances=(90.0, 180.0))
    with pytest.raises(ConfigError, match="2 retardances for a controller of 3 paddles"):
        _station(two, controller)
    del controller.actuators[2]
    with pytest.raises(ConfigError, match="three or more"):
        _station(two, controller)


class Squeezer(Paddle):
    unit = "V"
    limits = Limits(-5.0, 5.0)


def test_squeezers_need_axes_and_a_curve_of_their_retardance() -> None:
    controller = Controller()
    controller.actuators = [Squeezer(f"squeezer_{i}") for i in range(4)]
    for squeezer in controller.actuators:
        squeezer.set(0.7)
    curve = ((0.0, 0.0), (1.4, 180.0))
    with pytest.raises(ConfigError, match=r"lock\.curve: a curve has two points.*1\.4 V, 180 deg"):
        _station(LockTerms(optimum=0.01), controller)
    with pytest.raises(ConfigError, match="3 axes for a controller of 4 retarders"):
        _station(LockTerms(optimum=0.01, curve=curve, axes=(0.0, 45.0, 0.0)), controller)
    station = _station(LockTerms(optimum=0.01, curve=curve), controller)
    assert station == RetarderStation(
        (0.0, 45.0, 0.0, 45.0), curve, (Limits(-5.0, 5.0),) * 4, (0.7,) * 4
    )


def test_the_link_is_a_polarization_stabilizer() -> None:
    station = Station((90.0, 180.0, 90.0), (Paddle.limits,) * 3, (40.0, 50.0, 60.0))
    controllers = [Controller(), Controller()]
    lock = PolarizationLock((station, station))
    link = LinkStabilizer(controllers, lock)
    assert isinstance(link, PolarizationStabilizer)
    assert len(link.actuators) == 6
    assert link.ready()
    controllers[1].moving = True
    assert not link.ready()
    assert link.error.get() != link.error.get()  # nan: nothing is known
    lock.qber = 0.02
    assert link.error.get() == 0.02
