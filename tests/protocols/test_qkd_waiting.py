"""What waits: the same as rows in plain lists, whatever is added and dropped."""

import numpy as np
from bellbench.protocols.qkd.waiting import Waiting
from hypothesis import given
from hypothesis import strategies as st


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=40))
def test_rows_come_out_as_they_went_in(turns: list[tuple[int, int]]) -> None:
    waiting, rows, number = Waiting(np.int64, np.uint8), [], 0
    for added, dropped in turns:
        new = np.arange(number, number + added)
        number += added
        waiting.add(new, (new % 251).astype(np.uint8))
        rows += new.tolist()
        dropped = min(dropped, len(rows))
        waiting.drop(dropped)
        del rows[:dropped]
        assert waiting.size == len(rows)
        assert waiting[0].tolist() == rows
        assert waiting[1].tolist() == [row % 251 for row in rows]
