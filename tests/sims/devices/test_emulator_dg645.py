"""The DG645 twin, over a real socket, with plain pyvisa and plain bytes."""

from __future__ import annotations

import itertools
import socket
from typing import Any

import pytest
from bellbench.sims.devices.dg645 import DG645Emulator
from bellbench.sims.elements import DelayGenerator, DelayGeneratorModel
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

US = 1_000_000


def build(
    stage: Any, name: str = "delays", *, inhibited: bool = False, **changes: Any
) -> tuple[DG645Emulator, DelayGenerator, str]:
    element = DelayGenerator(DelayGeneratorModel(kind="delay_generator", inhibited=inhibited))
    emulator = DG645Emulator(stage.setting(name), element, DG645Emulator.Settings(**changes))
    return emulator, element, stage.open(emulator)


@pytest.fixture
def twin(stage: Any) -> tuple[DG645Emulator, DelayGenerator, str]:
    return build(stage)


@pytest.fixture
def device(visa: Any, twin: Any) -> Any:
    return visa(twin[2], read_termination="\r\n")


def tell(device: Any, *commands: str) -> None:
    """Send settings and return when they were taken without an error."""
    for command in commands:
        device.write(command)
    assert error(device) == 0


def error(device: Any) -> int:
    return int(device.query("LERR?"))


def test_the_golden_conversation_byte_for_byte(stage: Any, twin: Any) -> None:
    sent = b"DLAY 2,0,9.999999999999999e-06\nDLAY?2\n"
    answer = b"0,+0.000010000000\r\n"
    assert stage.converse(stage.endpoint(twin[2]), [sent], len(answer)) == answer


def test_identity_and_power_on_state(device: Any) -> None:
    assert device.query("*IDN?") == "Stanford Research Systems,DG645,s/n001013,ver1.00.00E"
    assert error(device) == 0
    assert device.query("*ESR?") == "128"
    assert device.query("*ESR?") == "0"
    assert device.query("TSRC?") == "5"
    assert device.query("TRAT?") == "+1000.000000"
    assert device.query("*TST?;*CAL?") == "0"
    assert device.read() == "0"


@pytest.mark.parametrize(
    ("command", "query", "answer"),
    [
        ("DLAY 2,0,1e-6", "DLAY?2", "0,+0.000001000000"),
        ("dlay 2, 0, +.000001", "DLAY? 2", "0,+0.000001000000"),
        ("DLAY 2,0,1.0000024E-6", "DLAY?2", "0,+0.000001000000"),
        ("DLAY 2,0,1.0000026E-6", "DLAY?2", "0,+0.000001000005"),
        ("DLAY 9,0,2000", "DLAY?9", "0,+2000.000000000000"),
        ("LAMP 1,3.456", "LAMP?1", "+3.46"),
        ("LOFF 0,-2", "LOFF?0", "-2.00"),
        ("LPOL 4,0", "LPOL?4", "0"),
        ("TSRC 2", "TSRC?", "2"),
        ("TRAT 1e7", "TRAT?", "+10000000.000000"),
        ("TRAT 0.0001", "TRAT?", "+0.000100"),
        ("TLVL -1.234", "TLVL?", "-1.23"),
        ("HOLD 1e-3", "HOLD?", "+0.001000000000"),
        ("ADVT 1", "ADVT?", "1"),
        ("PRES 2,7", "PRES?2", "7"),
        ("PHAS 2,6", "PHAS?2", "6"),
        ("INHB 5", "INHB?", "5"),
        ("BURM 1", "BURM?", "1"),
        ("BURC 4294967295", "BURC?", "4294967295"),
        ("BURD 5e-12", "BURD?", "+0.000000000005"),
        ("BURP 1.234e-6", "BURP?", "+0.00000123"),
        ("BURT 1", "BURT?", "1"),
        ("DISP 11,2", "DISP?", "11,2"),
    ],
)
def test_settings_and_how_they_read_back(
    device: Any, command: str, query: str, answer: str
) -> None:
    tell(device, command)
    assert device.query(query) == answer
    device.write("*RST")
    assert device.query(query) != answer
    assert error(device) == 0


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("LAMP 1,0.49", 10),
        ("LAMP 5,1", 10),
        ("LOFF 1,2.01", 10),
        ("LPOL 1,2", 10),
        ("TSRC 7", 10),
        ("TSRC -1", 10),
        ("TRAT 10000000.1", 10),
        ("TRAT 0", 10),
        ("TLVL 3.6", 10),
        ("BURP 99e-9", 10),
        ("BURP 2000", 10),
        ("BURC 0", 10),
        ("BURC 4294967296", 10),
        ("PRES 5,1", 10),
        ("PHAS 0,1", 10),
        ("INHB 6", 10),
        ("DLAY 10,0,0", 10),
        ("DLAY?10", 10),
        ("DLAY 2,0,2000.000000000005", 12),
        ("DLAY 2,0,-5e-12", 12),
        ("DLAY 2,0,1e9999", 12),
        ("DLAY 0,2,0", 13),
        ("DLAY 1,0,0", 13),
        ("DLAY 2,1,0", 13),
        ("DLAY 2,2,0", 13),
        ("LINK 0,2", 13),
        ("LINK 3,3", 13),
        ("*RCL 3", 14),
        ("*RCL 10", 10),
        ("FOO 1", 111),
        ("*FOO?", 111),
        ("*RST?", 112),
        ("*TRG?", 112),
        ("LERR", 113),
        ("*IDN", 113),
        ("INSR 0", 113),
        ("DLAY 2,,1e-6", 114),
        ("TRAT ,", 114),
        ("TRAT 1,2", 115),
        ("TRAT? 1", 115),
        ("*TRG 1", 115),
        ("DLAY 2,0", 116),
        ("TRAT", 116),
        ("DLAY?", 116),
        ("TRAT 1" + 70 * "0", 117),
        ("TRAT fast", 118),
        ("TRAT 1 kHz", 118),
        ("TRAT nan", 118),
        ("BURC 1.5", 120),
        ("TSRC internal", 120),
        ("BURC 1" + 20 * "0", 121),
        ("=4", 126),
        ("?", 126),
    ],
)
def test_refusals_are_silent_and_queued(device: Any, command: str, code: int) -> None:
    before = [device.query(q) for q in ("DLAY?2", "DLAY?3", "TRAT?", "BURC?", "TSRC?")]
    device.write(command)
    assert error(device) == code  # the first thing that comes back
    assert error(device) == 0
    assert [device.query(q) for q in ("DLAY?2", "DLAY?3", "TRAT?", "BURC?", "TSRC?")] == before
    assert int(device.query("*ESR?")) & (32 if code >= 100 else 16)


def test_the_queue_is_first_in_first_out_and_bounded(device: Any) -> None:
    device.write("FOO")
    for _ in range(30):
        device.write("TSRC 9")
    codes = [error(device) for _ in range(21)]
    assert codes == [111, *[10] * 18, 254, 0]
    device.write("FOO")
    device.write("*CLS")
    assert error(device) == 0


def test_links(device: Any) -> None:
    tell(device, "DLAY 2,0,1e-6", "DLAY 3,2,250e-9", "DLAY 4,3,-1e-7")
    assert device.query("DLAY?4") == "3,-0.000000100000"
    assert [device.query(f"LINK?{c}") for c in (2, 3, 4)] == ["0", "2", "3"]
    device.write("LINK 2,4")
    assert error(device) == 13  # a circle
    device.write("DLAY 2,4,0")
    assert error(device) == 13
    device.write("DLAY 4,3,-2e-6")
    assert error(device) == 12  # before T0
    device.write("DLAY 2,0,1999.9999999")
    assert error(device) == 12  # B would come after 2000 s
    tell(device, "LINK 4,0")
    assert device.query("DLAY?4") == "0,+0.000001150000"


def test_knobs_turn_at_the_next_block_and_links_add_up(stage: Any, twin: Any, device: Any) -> None:
    emulator, element, _ = twin
    tell(device, "DLAY 2,0,1e-6", "DLAY 3,2,250e-9", "TRAT 2500.5", "TSRC 0", "LAMP 1,4")
    tell(device, "LOFF 1,-1", "LPOL 1,0")
    assert element.source == "single"
    stage.step(emulator)
    assert element.source == "internal"
    assert element.rate_uhz == 2_500_500_000
    assert element.delays_ps[:3] == [US, US + 250_000, 0]
    assert (element.amplitudes_v[1], element.offsets_v[1], element.positive[1]) == (
        4.0,
        -1.0,
        False,
    )
    tell(device, "DLAY 2,0,2e-6")
    assert element.delays_ps[0] == US
    stage.step(emulator)
    assert element.delays_ps[:2] == [2 * US, 2 * US + 250_000]


def test_single_shots(stage: Any, twin: Any, device: Any) -> None:
    emulator, element, _ = twin
    tell(device, "DLAY 2,0,1e-6", "*TRG")
    begin = stage.now_ps
    stage.step(emulator)
    block = element.edges(begin, stage.now_ps)
    assert block.triggers_ps.tolist() == [begin]
    assert block.channel("A").tolist() == [begin + US]
    assert device.query("INSR?") == "5"  # triggered, cycle ended
    assert device.query("INSR?") == "0"
    stage.step(emulator)
    assert device.query("INSR?") == "0"
    tell(device, "*TRG", "*TRG")
    stage.step(emulator)
    assert device.query("INSR?") == "7"  # the second came while the first ran
    device.write("TSRC 0")
    device.write("*TRG")
    assert error(device) == 11
    tell(device, "TSRC 3", "*TRG")
    stage.step(emulator)
    assert device.query("INSR?") == "0"  # nothing is wired to the trigger input


def test_bursts(stage: Any, twin: Any, device: Any) -> None:
    emulator, element, _ = twin
    tell(device, "BURM 1", "BURC 3", "BURP 2e-6", "BURD 1e-6", "BURT 1", "DLAY 2,0,5e-7", "*TRG")
    begin = stage.now_ps
    stage.step(emulator)
    block = element.edges(begin, stage.now_ps)
    cycles = [begin + k * US for k in (1, 3, 5)]
    assert block.cycles_ps.tolist() == cycles
    assert block.channel("T0").tolist() == cycles[:1]
    assert block.channel("A").tolist() == [t + 500_000 for t in cycles]
    assert device.query("INSR?") == "13"  # triggered, cycle ended, burst ended


def test_dividers_need_advanced_triggering(stage: Any, twin: Any, device: Any) -> None:
    emulator, element, _ = twin
    tell(device, "TSRC 0", "PRES 1,4", "PHAS 1,1", "HOLD 0.0019")
    stage.step(emulator)
    assert element.edges(stage.now_ps - 10**10, stage.now_ps).channel("A").size == 10
    tell(device, "ADVT 1")
    stage.step(emulator)
    assert element.edges(stage.now_ps - 10**10, stage.now_ps).triggers_ps.size == 5
    assert (element.prescales, element.phases) == ([4, 1, 1, 1], [1, 0, 0, 0])


def test_the_inhibit_input(stage: Any, visa: Any) -> None:
    emulator, element, resource = build(stage, inhibited=True)
    device = visa(resource, read_termination="\r\n")
    tell(device, "TSRC 0", "INHB 1")
    stage.step(emulator)
    assert element.edges(0, stage.now_ps).triggers_ps.size == 0
    assert device.query("INSR?") == "16"


def test_memories(device: Any) -> None:
    tell(device, "DLAY 2,0,1e-6", "*SAV 3", "DLAY 2,0,2e-6", "*RCL 3")
    assert device.query("DLAY?2") == "0,+0.000001000000"
    tell(device, "DLAY 2,0,2e-6", "*RCL 3")
    assert device.query("DLAY?2") == "0,+0.000001000000"


def test_status_byte(stage: Any, twin: Any, device: Any) -> None:
    tell(device, "*ESE 16", "*SRE 32", "INSE 1")
    assert device.query("*ESE?;*SRE?") == "16"
    assert device.read() == "32"
    device.write("TSRC 9")
    assert device.query("*STB?") == "96"
    device.write("*CLS")
    assert device.query("*STB?") == "0"
    tell(device, "*TRG")
    stage.step(twin[0])
    assert device.query("*STB?") == "1"
    device.write("*OPC")
    assert device.query("*OPC?") == "1"
    assert device.query("*ESR?") == "1"


STREAM = b"*IDN?\nDLAY 3,0,2.5e-6;DLAY? 3\nFOO;LERR?\r\n\n*OPC?\r\nLERR?\n"
ANSWER = (
    b"Stanford Research Systems,DG645,s/n001013,ver1.00.00E\r\n0,+0.000002500000\r\n"
    b"111\r\n1\r\n0\r\n"
)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(cuts=st.sets(st.integers(1, len(STREAM) - 1)))
def test_any_split_of_the_commands_gives_the_same_replies(
    stage: Any, twin: Any, cuts: set[int]
) -> None:
    edges = [0, *sorted(cuts), len(STREAM)]
    pieces = [STREAM[a:b] for a, b in itertools.pairwise(edges)]
    assert stage.converse(stage.endpoint(twin[2]), pieces, len(ANSWER)) == ANSWER


def test_chaos_changes_packets_and_not_bytes(stage: Any) -> None:
    _, _, resource = build(stage, chaos=True)
    assert stage.converse(stage.endpoint(resource), [STREAM] * 20, 20 * len(ANSWER)) == ANSWER * 20


def test_hostile_clients_are_survived(stage: Any, twin: Any, device: Any) -> None:
    where = stage.endpoint(twin[2])
    stage.flood(where, b"x" * 1_000_000)
    with socket.create_connection(where, 5) as client:
        client.sendall(bytes(range(256)) * 10)
    assert device.query("*OPC?") == "1"


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    commands=st.lists(
        st.tuples(
            st.sampled_from(["DLAY", "LINK"]),
            st.integers(0, 10),
            st.integers(0, 10),
            st.sampled_from(["0", "1e-6", "-1e-6", "1500", "5e-12"]),
        ),
        max_size=30,
    )
)
def test_no_command_brings_a_delay_out_of_its_range(stage: Any, commands: Any) -> None:
    element = DelayGenerator(DelayGeneratorModel(kind="delay_generator"))
    emulator = DG645Emulator(stage.setting(), element, DG645Emulator.Settings())
    for header, channel, reference, delay in commands:
        text = f"{header} {channel},{reference}"
        emulator._execute(f"{text},{delay}" if header == "DLAY" else text)
    emulator.begin_block(0, 1)
    assert all(0 <= ps <= 2000 * 10**12 and ps % 5 == 0 for ps in element.delays_ps)
