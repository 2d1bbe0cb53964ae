"""Taggers whose clocks run off the bench's, through both drivers, on twins."""

from __future__ import annotations

import hashlib
from pathlib import Path

import bellbench
import pytest
from bellbench.bench import Lab

_WORLD = """
bellbench: world/1
elements:
  pump: {{kind: pump_laser}}
  crystal: {{kind: spdc, pump: pump, pair_rate: 1 kHz/mW}}
  analyzer: {{kind: analyzer, z_fraction: 50 %}}
  snspd: {{kind: snspd, detectors: [{detector}, {detector}, {detector}, {detector}]}}
  tagger:
    {{kind: tagger, start_offset: 2.7 ms, clock: {{reference: internal, frequency_offset: {a}}}}}
  far_analyzer: {{kind: analyzer, z_fraction: 50 %}}
  far_snspd: {{kind: snspd, detectors: [{detector}, {detector}, {detector}, {detector}]}}
  far_tagger:
    {{kind: tagger, start_offset: 6 ms, clock: {{reference: internal, frequency_offset: {b}}}}}
paths:
  - [crystal.signal, analyzer, snspd, tagger]
  - [crystal.idler, far_analyzer, far_snspd, far_tagger]
"""
_DETECTOR = "{efficiency: 80 %, dark_rate: 50 Hz}"
_BENCH = """
bellbench: bench/1
world: world.yaml
twin: true
instruments:
  snspd: {{driver: single_quantum.websq, settings: {bias}}}
  far_snspd: {{driver: single_quantum.websq, settings: {bias}}}
  tagger:
    driver: id_quantique.id900
    settings: {{enabled: [true, true, true, false], latency: 15 ms, clock_tolerance: {tolerance}}}
  far_tagger: {{driver: s_fifteen.tdc1, settings: {{pulses: TTL, clock_tolerance: {tolerance}}}}}
"""
_BIAS = "{bias_currents: [18 uA, 18 uA, 18 uA, 18 uA], enabled: true}"


def bench(folder: Path, a: float, b: float, tolerance: float) -> Path:
    """Dark counts of two arrays: on an ID900, one input of it dead, and on a TDC1."""
    world = _WORLD.format(a=f"{a:.9f}", b=f"{b:.9f}", detector=_DETECTOR)
    (folder / "world.yaml").write_text(world)
    path = folder / "bench.yaml"
    path.write_text(_BENCH.format(bias=_BIAS, tolerance=f"{tolerance:.9f}"))
    return path


def stream(lab: Lab, seconds: float, step_s: float) -> tuple[list[int], list[float], str]:
    """Read both taggers for a while: clicks of each, watermarks at the end, digest of all."""
    taggers = (lab.tagger, lab.far_tagger)
    for tagger in taggers:
        tagger.start()
    began = lab.clock.now()
    seen, counts, ends = hashlib.sha256(), [0, 0], [0, 0]
    while lab.clock.now() - began < seconds - 1e-9:
        lab.clock.sleep(step_s)
        for i, tagger in enumerate(taggers):
            batch = tagger.read().checked()
            assert batch.losses == ()
            assert batch.begin_ps == ends[i]
            ends[i], counts[i] = batch.end_ps, counts[i] + len(batch)
            seen.update(batch.times_ps.tobytes() + batch.channels.tobytes())
            seen.update(batch.end_ps.to_bytes(8, "little"))
    for tagger in taggers:
        tagger.stop()
    return counts, [end * 1e-12 for end in ends], seen.hexdigest()


def test_free_clocks_lose_nothing_and_runs_are_equal_to_the_bit(tmp_path: Path) -> None:
    """1000 ppm slow on the ID900, 1000 ppm fast on the TDC1: ten times a crystal's worst, so that
    seconds show what hours would."""
    path = bench(tmp_path, -1e-3, 1e-3, 1e-3)
    digests = set()
    for _ in range(2):
        with bellbench.open_bench(path, seed=5) as lab:
            counts, ends, digest = stream(lab, 12.0, 0.3)
        digests.add(digest)
        for count, inputs in zip(counts, (3, 4), strict=True):
            assert count == pytest.approx(12 * 50 * inputs, abs=5 * (12 * 50 * inputs) ** 0.5)
        assert ends[0] == pytest.approx(12 * 0.999 - 0.015, abs=1e-9)
        assert 12 * 1.001 - 0.3 - 0.03 < ends[1] < 12 * 1.001 - 0.3
    assert len(digests) == 1


@pytest.mark.slow
@pytest.mark.timeout(6000)
@pytest.mark.parametrize("sign", [1, -1])
def test_an_hour_100_ppm_off(tmp_path: Path, sign: int) -> None:
    """Some 8 min each: ``pytest -m slow tests/test_taggers_run_free.py``."""
    path = bench(tmp_path, sign * 1e-4, -sign * 1e-4, 1e-4)
    with bellbench.open_bench(path, seed=6) as lab:
        _, ends, _ = stream(lab, 3600.0, 1.0)
    for end, off, latency in zip(ends, (sign * 1e-4, -sign * 1e-4), (0.015, 0.3), strict=True):
        shown = 3600 * (1 + off)
        assert shown - latency - 0.1 < end < shown - latency + 1e-9
