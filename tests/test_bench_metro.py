"""The bundled benches come up on their twins, through every wire, to the rates they promise."""

from __future__ import annotations

import math

import bellbench
import pytest
from bellbench.instruments import TagBatch, concatenate


@pytest.mark.parametrize(("name", "pairs"), [("metro", 1e7), ("metro_tdc1", 5e6)])
def test_a_bundled_bench_comes_up_and_counts_what_its_world_promises(
    name: str, pairs: float
) -> None:
    with bellbench.open_bench(name, twin=True, seed=11) as lab:
        assert 15 < lab.clock.now() < 40  # the oven's time, not the test's
        snapshot = lab.snapshot()
        assert lab.source.emission.get() is True
        batches: dict[str, list[TagBatch]] = {"alice": [], "bob": []}
        for party in batches:
            lab.parties[party].tagger.start()
        for _ in range(6):
            lab.clock.sleep(0.2)
            for party, read in batches.items():
                read.append(lab.parties[party].tagger.read())
    errors = [
        (device, signal, entry["error"])
        for device, content in snapshot.items()
        for signal, entry in content["signals"].items()
        if "error" in entry
    ]
    assert errors == []
    for party, efficiency in (("alice", 0.10), ("bob", 0.05)):
        batch = concatenate(batches[party])
        assert batch.losses == ()
        begin = batch.split(20 * 10**9)[1]  # a recording starts some ms after its command
        # Neumann et al., PRA 104, 022406: clicks through the dead time, plus darks.
        rate = pairs * efficiency + 300
        expected = rate / (1 + rate * 30e-9 / 4)
        error = math.sqrt(expected / begin.live_s)
        assert len(begin) / begin.live_s == pytest.approx(expected, rel=5e-3, abs=4 * error)
