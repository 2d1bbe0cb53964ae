"""A sequencer's edges, against levels that are written out nanosecond by nanosecond."""

import numpy as np
from bellbench.sims.elements.sequencer import (
    Program,
    PulseSequencer,
    PulseSequencerModel,
    hold,
)
from hypothesis import given, settings
from hypothesis import strategies as st

NS = 1000


def programs() -> st.SearchStrategy[Program]:
    def make(steps: list[tuple[int, int]], final: int, runs: int | None) -> Program:
        durations = np.array([t for t, _ in steps], np.int64)
        digital = np.array([*(d for _, d in steps), final], np.uint8)
        return Program(durations, digital, np.zeros((len(digital), 2)), runs)

    step = st.tuples(st.integers(1, 7), st.integers(0, 3))
    lists = st.lists(step, min_size=1, max_size=5)
    playing = st.builds(make, lists, st.integers(0, 3), st.one_of(st.none(), st.integers(1, 6)))
    return st.one_of(playing, st.builds(hold, st.integers(0, 3)))


def written_out(program: Program, length: int) -> np.ndarray:
    """Step shown in each nanosecond from the program's beginning."""
    n = len(program.durations_ns)
    one = np.repeat(np.arange(n), program.durations_ns)
    if not n:
        return np.zeros(length, np.int64)
    runs = -(-length // one.size) if program.runs is None else program.runs
    return np.concatenate([np.tile(one, runs), np.full(length, n)])[:length]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(programs(), st.integers(1, 3)), min_size=1, max_size=3))
def test_edges_are_those_of_the_levels(plan: list[tuple[Program, int]]) -> None:
    block = 16
    sequencer = PulseSequencer(PulseSequencerModel(kind="pulse_sequencer"))
    now, before = 0, 0
    for program, blocks in plan:
        sequencer.play(program, now)
        step = written_out(program, block * blocks)
        mask = program.digital[step]
        start = now
        for _ in range(blocks):
            for output in (0, 1):
                times, shown = sequencer.edges(output, now, now + block * NS)
                low = (now - start) // NS
                level = (mask >> output & 1)[low : low + block].astype(int)
                last = before if low == 0 else int(mask[low - 1])
                rises = np.flatnonzero(np.diff(level, prepend=last >> output & 1) == 1)
                assert times.tolist() == [now + NS * int(r) for r in rises]
                assert shown.tolist() == step[low + rises].tolist()
            now += block * NS
        before = int(mask[(now - start) // NS - 1])


def test_a_long_train_is_exact() -> None:
    program = Program(
        np.array([3, 97], np.int64), np.array([1, 0, 0], np.uint8), np.zeros((3, 2)), None
    )
    sequencer = PulseSequencer(PulseSequencerModel(kind="pulse_sequencer"))
    sequencer.play(program, 10**10)
    begin = 10**16  # some hours
    times, shown = sequencer.edges(0, begin, begin + 10**10)
    assert times.size == 100_000
    assert (np.diff(times) == 100 * NS).all()
    assert times[0] == begin
    assert not shown.any()
    spans = sequencer.spans(0, begin, begin + 10**10)
    assert sum(span.runs * (span.high - span.low) for span in spans) == 100_000


def test_a_program_never_seen_leaves_no_trace() -> None:
    sequencer = PulseSequencer(PulseSequencerModel(kind="pulse_sequencer"))
    sequencer.play(hold(1), 0)
    sequencer.play(hold(0), 0)
    assert sequencer.edges(0, 0, 10**10)[0].size == 0
    sequencer.play(hold(1), 10**10)
    assert sequencer.edges(0, 10**10, 2 * 10**10)[0].tolist() == [10**10]
