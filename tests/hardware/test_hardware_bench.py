"""A bench's own tests: the same on twins, on a recording, and on the table.

    pytest --rootdir=tests tests/hardware    # the metro bench's twins
    pytest --rootdir=tests tests/hardware --bench my.yaml --hardware --bench-record traffic
    pytest --rootdir=tests tests/hardware --bench my.yaml --bench-replay traffic

See docs/hardware-in-the-loop.md.
"""

from __future__ import annotations

import pytest
from bellbench import Lab, testing
from bellbench.instruments import TagBatch, concatenate


def test_every_signal_can_be_read(lab: Lab) -> None:
    for name, content in lab.snapshot().items():
        errors = {s: e["error"] for s, e in content["signals"].items() if "error" in e}
        assert not errors, (name, errors)


def test_the_pump_does_what_it_is_told(lab: Lab) -> None:
    current = lab.pump.current.get()
    testing.check_settable(lab.pump.current, [0.9 * current, current], unit="A", tolerance=1e-4)
    assert lab.pump.emission.get()
    lab.clock.sleep(0.5)
    assert lab.pump.measured_current.get() == pytest.approx(current, abs=2e-3)


def test_clicks_follow_the_pump(lab: Lab) -> None:
    """Light on, clicks; light off, next to none: source, fibre, detectors and tagger in one."""
    alice = lab.parties["alice"]
    alice.tagger.start()
    bright = rate(read_for(lab, 0.05))
    lab.pump.emission.set(False)
    read_for(lab, 0.2)  # what was on its way
    dark = rate(read_for(lab, 0.1))
    alice.tagger.stop()
    assert bright > 1e3
    assert dark < bright / 20


@pytest.mark.hardware
def test_the_laser_is_a_real_one(lab: Lab) -> None:
    """What no twin can show: this box, by its serial number."""
    assert lab.pump.identify().serial not in ("", "M00000000")


def read_for(lab: Lab, seconds: float) -> TagBatch:
    """Clicks of Alice from now on; the tagger reads a latency behind the clock."""
    tagger = lab.parties["alice"].tagger
    lab.clock.sleep(tagger.info.latency_s)
    tagger.read()
    batches = []
    for _ in range(round(seconds / 0.05)):
        lab.clock.sleep(0.05)
        batches.append(tagger.read())
    return concatenate(batches)


def rate(clicks: TagBatch) -> float:
    return len(clicks) / ((clicks.end_ps - clicks.begin_ps) * 1e-12)
