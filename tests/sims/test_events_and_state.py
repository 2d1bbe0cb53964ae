"""What happens to a world by itself, and what lasts of it from one day to the next."""

import json
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from bellbench.instruments import ConfigError
from bellbench.sims.elements import Eavesdropper, Fibre, Oven, PumpLaser, SnspdArray, TaggerInputs
from bellbench.sims.saved import read_state
from bellbench.sims.world import BLOCK_PS, World, WorldModel, check_layout


def link(*events: dict[str, Any], **fibre: Any) -> dict[str, Any]:
    detector = {"efficiency": 0.8, "dark_rate": 50.0, "dead_time": 30e-9}
    elements: dict[str, Any] = {
        "pump": {"kind": "pump_laser", "threshold": 0.04, "slope": 0.5},
        "oven": {"kind": "oven", "start": 36.0, "time_constant": 0.5},
        "crystal": {
            "kind": "spdc",
            "pump": "pump",
            "oven": "oven",
            "pair_rate": 2e7,
            "phase_matching": 40.0,
        },
    }
    for side in ("alice", "bob"):
        elements |= {
            f"{side}_fibre": {"kind": "fibre", "length": 1000.0, "loss": 3.0, **fibre},
            f"{side}_analyzer": {"kind": "analyzer"},
            f"{side}_snspd": {"kind": "snspd", "detectors": [detector] * 4},
            f"{side}_tagger": {"kind": "tagger"},
        }
    stages = ("fibre", "analyzer", "snspd", "tagger")
    return {
        "elements": elements,
        "paths": [
            ["crystal.signal", *(f"alice_{stage}" for stage in stages)],
            ["crystal.idler", *(f"bob_{stage}" for stage in stages)],
        ],
        "events": list(events),
    }


def world(*events: dict[str, Any], seed: int = 1, **fibre: Any) -> World:
    made = World(WorldModel.model_validate(link(*events, **fibre)), seed)
    pump, oven = made.elements["pump"], made.elements["oven"]
    assert isinstance(pump, PumpLaser)
    assert isinstance(oven, Oven)
    pump.current_a, pump.emitting = 0.1, True
    oven.setpoint_c, oven.heating, oven.temperature_c = 40.0, True, 40.0
    for element in made.elements.values():
        if isinstance(element, SnspdArray):
            element.enabled, element.bias_a = True, [18e-6] * 4
        if isinstance(element, TaggerInputs):
            element.recording = True
    return made


def counts(made: World, blocks: int) -> list[int]:
    """Clicks of Alice, block by block."""
    tagger = made.elements["alice_tagger"]
    assert isinstance(tagger, TaggerInputs)
    found = []
    for _ in range(blocks):
        made.run_block()
        found.append(tagger.times_ps.size)
    return found


def test_a_bent_fibre_loses_light_while_it_lasts() -> None:
    bend = {"event": "bend", "to": "alice_fibre", "at": 0.05, "loss": 10.0, "lasting": 0.05}
    seen = counts(world(bend), 15)
    before, bent, after = (sum(seen[i : i + 5]) for i in (0, 5, 10))
    assert bent == pytest.approx(0.1 * before, abs=5 * before**0.5)
    assert after == pytest.approx(before, abs=6 * before**0.5)


def test_an_event_acts_at_the_first_block_that_begins_at_or_after_its_time() -> None:
    cut = {"event": "bend", "to": "alice_fibre", "at": 0.0301, "loss": 90.0}
    seen = counts(world(cut), 6)
    assert [n > 100 for n in seen] == [True] * 4 + [False] * 2


def test_a_mode_hop_detunes_the_crystal() -> None:
    made = world({"event": "mode_hop", "to": "pump", "at": 0.02, "shift": 1.5, "lasting": 0.02})
    rates = []
    for _ in range(6):
        made.run_block()
        rates.append(made.mean_rates("crystal").both.sum())
    assert rates[2] == pytest.approx(0.5 * rates[0], rel=1e-6)  # half of the 3 K FWHM
    assert rates[4] == rates[5] == rates[0]


def test_a_bump_turns_the_polarization_for_good() -> None:
    turn = {"event": "bump", "to": "bob_fibre", "at": 0.02, "rotation": [0.0, 90.0, 0.0]}
    made = world({**turn, "delay": 50e-9})
    fibre = made.elements["bob_fibre"]
    assert isinstance(fibre, Fibre)
    delay = fibre.passage().delay_s
    tables = []
    for _ in range(4):
        made.run_block()
        tables.append(made.mean_rates("crystal").both)
    assert tables[0][0, 1] < 1e-4 * tables[0][0, 0]
    assert tables[3][0, 1] == pytest.approx(tables[3][0, 0], rel=1e-4)  # H/V is lost
    assert tables[3][2, 2] == pytest.approx(tables[0][2, 2], rel=1e-4)  # D/A is about the axis
    assert fibre.passage().delay_s - delay == pytest.approx(50e-9)


@pytest.mark.parametrize(
    ("event", "words"),
    [
        ({"event": "bend", "to": "alice_fibr", "loss": 1.0}, "did you mean 'alice_fibre'"),
        ({"event": "bend", "to": "pump", "loss": 1.0}, "what bend happens to is: fibre"),
        ({"event": "power_cut", "to": ["pump", "crystal"]}, "'crystal' is a spdc"),
    ],
)
def test_an_event_that_cannot_happen_is_refused(event: dict[str, Any], words: str) -> None:
    [(loc, message)] = check_layout(WorldModel.model_validate(link({"at": 1.0, **event})))
    assert loc[:2] == ("events", 0)
    assert words in message


DRIFTS: dict[str, Any] = {"drift_time": 5.0, "temperature_walk": 100.0, "pmd": 1e-14}


def test_a_resumed_world_drifts_on_as_if_it_had_never_stopped(tmp_path: Path) -> None:
    bend = {"event": "bend", "to": "alice_fibre", "at": 0.1, "loss": 3.0, "lasting": 0.6}
    through, stopped = world(bend, **DRIFTS), world(bend, **DRIFTS)
    counts(through, 90)
    counts(stopped, 30)
    stopped.save(tmp_path / "state.json")
    resumed = world(bend, **DRIFTS)
    resumed.resume(tmp_path / "state.json")
    assert resumed.now_ps == 30 * BLOCK_PS
    counts(resumed, 60)
    for name in ("alice_fibre", "bob_fibre"):
        one, two = through.elements[name], resumed.elements[name]
        assert isinstance(one, Fibre)
        assert isinstance(two, Fibre)
        a, b = one.passage(), two.passage()
        np.testing.assert_allclose(a.jones, b.jones, atol=1e-12)
        assert (a.delay_s, a.dgd_s, a.transmission) == (b.delay_s, b.dgd_s, b.transmission)
    # From the first whole block on the clicks are the same, too.
    assert counts(through, 3)[1:] == counts(resumed, 3)[1:]


def test_a_state_that_does_not_fit_changes_nothing(tmp_path: Path) -> None:
    made = world(**DRIFTS)
    counts(made, 12)
    file = tmp_path / "state.json"
    made.save(file)
    good = json.loads(file.read_text())
    with pytest.raises(ConfigError, match="seed 1, not 2"):
        world(seed=2, **DRIFTS).resume(file)

    def damaged(change: Any) -> str:
        state = json.loads(json.dumps(good))
        change(state)
        file.write_text(json.dumps(state))
        fresh = world(**DRIFTS)
        with pytest.raises(ConfigError) as caught:
            fresh.resume(file)
        assert fresh.now_ps == 0
        return str(caught.value)

    assert "another world" in damaged(lambda s: s["elements"].pop("oven"))
    assert "damaged" in damaged(lambda s: s["elements"]["oven"].update(temperature_c="warm"))
    assert "damaged" in damaged(lambda s: s["elements"]["alice_fibre"].update(turned=[[1, 2]]))
    assert "damaged" in damaged(lambda s: s.update(now_ps=-1))
    assert "no state" in damaged(lambda s: s.update(format="else"))
    file.write_text('{"format": ')
    with pytest.raises(ConfigError, match="cannot be read"):
        read_state(file)


def test_stray_light_is_counted_by_every_detector_of_the_box() -> None:
    light = {"event": "stray_light", "to": "bob_snspd", "at": 0.05, "rate": 1e5, "lasting": 0.05}
    made = world(light)
    tagger = made.elements["bob_tagger"]
    assert isinstance(tagger, TaggerInputs)
    seen = []
    for _ in range(15):
        made.run_block()
        seen.append(np.bincount(tagger.inputs, minlength=5)[1:])
    before, lit, after = (sum(seen[i : i + 5]) for i in (0, 5, 10))
    assert (abs(lit - before - 0.05 * 0.8 * 1e5) < 6 * np.sqrt(lit + before)).all()
    assert (abs(after - before) < 6 * np.sqrt(after + before)).all()


def test_a_power_cut_takes_instruments_off_the_net_and_back_as_when_switched_on() -> None:
    """On a served world: the address refuses, then answers again with the laser off."""
    import asyncio

    from bellbench.sims.server import TwinSpec, _Server

    cut = {"event": "power_cut", "to": ["pump", "alice_snspd"], "at": 0.02, "lasting": 0.02}
    made = world(cut)
    twins = [
        TwinSpec("pump", "thorlabs.cld1015", "pump", {}),
        TwinSpec("snspd", "single_quantum.websq", "alice_snspd", {}),
    ]

    async def ask(port: int, text: bytes) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(text)
        answer = await reader.readline()
        writer.close()
        return answer

    async def story() -> None:
        server = _Server(made, twins, host="127.0.0.1", factor=None)
        told: list[dict[str, object]] = []
        running = asyncio.create_task(server.run(told.append, port=0))
        while not any("control" in line for line in told):
            await asyncio.sleep(0)
        port = int(str(told[0]["address"]).split("::")[2])
        await ask(port, b"SOUR:CURR 0.05;:OUTP2 1;:SOUR:CURR?\n")
        await server._block()
        assert float(await ask(port, b"SOUR:CURR?\n")) == pytest.approx(0.05)
        await server._block()
        await server._block()
        assert list(server.emulators) == []
        with pytest.raises(OSError):
            await ask(port, b"*IDN?\n")
        snspd = made.elements["alice_snspd"]
        assert isinstance(snspd, SnspdArray)
        assert not snspd.enabled
        await server._block()
        await server._block()
        assert list(server.emulators) == ["pump", "snspd"]
        assert float(await ask(port, b"SOUR:CURR?\n")) == 0.0
        server.stopping.set()
        await running

    asyncio.run(story())


def test_events_that_last_go_on_after_a_resume_and_end_in_time(tmp_path: Path) -> None:
    """All kinds at once, saved in their midst, one in the very last block."""
    events = [
        {"event": "stray_light", "to": "bob_snspd", "at": 0.02, "rate": 1e6, "lasting": 0.05},
        {"event": "mode_hop", "to": "pump", "at": 0.02, "shift": 1.0},
        {"event": "bend", "to": "alice_fibre", "at": 0.035, "loss": 20.0},
        {"event": "bump", "to": "alice_fibre", "at": 0.035, "rotation": [0.0, 40.0, 0.0]},
    ]

    def shown(made: World) -> tuple[Any, ...]:
        snspd, pump, fibre = (made.elements[n] for n in ("bob_snspd", "pump", "alice_fibre"))
        assert isinstance(snspd, SnspdArray)
        assert isinstance(pump, PumpLaser)
        assert isinstance(fibre, Fibre)
        now = fibre.passage()
        return snspd.stray_light_hz, pump.mode_shift_k, now.transmission, now.jones.tobytes()

    through, stopped, resumed = world(*events), world(*events), world(*events)
    counts(through, 4)
    counts(stopped, 4)
    stopped.save(tmp_path / "state.json")
    resumed.resume(tmp_path / "state.json")
    for _ in range(6):
        counts(through, 1)
        counts(resumed, 1)
        assert shown(through) == shown(resumed)
    assert shown(resumed)[:2] == (0.0, 1.0)


def test_an_interception_sends_light_and_the_later_one_counts() -> None:
    eve = {"kind": "eavesdropper"}
    raw = link(
        {"event": "interception", "to": "eve", "at": 0.02, "intercept": 1.0, "lasting": 0.03},
        {"event": "interception", "to": "eve", "at": 0.0, "intercept": 0.5, "lasting": 0.02},
        {"event": "interception", "to": "eve", "at": 0.04, "light": 1e7, "lasting": 0.02},
    )
    raw["elements"]["eve"] = eve
    raw["paths"][0].insert(2, "eve")
    made = World(WorldModel.model_validate(raw), 1)
    snspd, tagger = made.elements["alice_snspd"], made.elements["alice_tagger"]
    assert isinstance(snspd, SnspdArray)
    assert isinstance(tagger, TaggerInputs)
    snspd.enabled, snspd.bias_a, tagger.recording = True, [18e-6] * 4, True
    seen, light = [], []
    for _ in range(7):
        made.run_block()
        seen.append(cast(Eavesdropper, made.elements["eve"]).intercept)
        light.append(tagger.times_ps.size)
    assert seen == [0.5, 0.5, 1.0, 1.0, 1.0, 0.0, 0.0]
    assert max(light[:4]) < 20  # darks
    assert min(light[4:6]) > 50_000
    assert light[6] < 200  # what was on its way


def test_a_bump_cannot_make_a_fibre_shorter_than_nothing() -> None:
    shorter = {"event": "bump", "to": "alice_fibre", "at": 1.0, "delay": -3e-6}
    [(loc, message)] = check_layout(
        WorldModel.model_validate(link(shorter, {**shorter, "at": 2.0}))
    )
    assert loc == ("events", 1, "delay")
    assert "takes more away than" in message


def test_a_calm_free_space_resumes(tmp_path: Path) -> None:
    raw = link()
    raw["elements"]["alice_fibre"] = {"kind": "free_space", "length": 1000.0}
    one, two = (World(WorldModel.model_validate(raw), 1) for _ in range(2))
    one.run_block()
    one.save(tmp_path / "state.json")
    two.resume(tmp_path / "state.json")
    two.run_block()
    assert two.now_ps == 2 * BLOCK_PS


def test_a_state_that_cannot_be_written_is_told_before_anything_is_served(tmp_path: Path) -> None:
    from bellbench.sims.server import serve

    with pytest.raises(OSError, match=r"state\.json"):
        serve(
            WorldModel.model_validate(link()),
            [],
            seed=1,
            announce=lambda line: None,
            state=tmp_path / "nowhere" / "state.json",
        )
