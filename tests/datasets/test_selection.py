"""Which frames of a split a command line names."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from coop3d.datasets.selection import select_entries
from coop3d.types import SampleKey

ENTRIES = [
    SimpleNamespace(key=SampleKey(s, a, f"{f:06d}")) for s in "st" for a in ("1", "2") for f in range(10)
]


def test_names_and_index_select():
    assert [e.key for e in select_entries(ENTRIES, "t", "2", "000003")] == [SampleKey("t", "2", "000003")]
    assert select_entries(ENTRIES, index=39)[0] is ENTRIES[39]


def test_several_are_spread_evenly():
    frames = [e.key.frame for e in select_entries(ENTRIES, "s", "1", at_most=4)]
    assert frames == ["000000", "000002", "000005", "000007"]
    assert len(select_entries(ENTRIES, agent="2", at_most=100)) == 20


def test_no_match_says_what_there_is():
    with pytest.raises(
        ValueError, match=r"scenario=any, agent=9, frame=any; the split has 40 frames, e\.g\. s/1"
    ):
        select_entries(ENTRIES, agent="9")
    with pytest.raises(ValueError, match="index 40 is outside the 40 frames"):
        select_entries(ENTRIES, index=40)
