"""Frame contracts: what is scored is named by content, and a change by hand is noticed."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from coop3d.evaluation.contracts import (
    ContractError,
    ContractSample,
    FrameContract,
    draw_samples,
    load_contract,
)
from coop3d.types import SampleKey

SHIPPED = sorted((Path(__file__).resolve().parents[2] / "configs" / "contracts").glob("*.json"))


def sample(scenario: str = "town", frame: int = 0, agents=("7", "12"), distance_m=20.0) -> ContractSample:
    return ContractSample(scenario=scenario, frame=f"{frame:06d}", agents=agents, distance_m=distance_m)


def contract(**changes) -> FrameContract:
    values = {
        "name": "town-v1",
        "split": "test",
        "samples": (sample(), sample(frame=2)),
        "pair_policy": "first",
    }
    return FrameContract(**{**values, **changes})


def test_it_comes_back_from_disk_with_order_and_hash(tmp_path):
    there = contract(
        samples=(sample(frame=4, agents=("9", "2", "5")), sample(frame=2)), seed=3, max_distance_m=60.0
    )
    there.write(tmp_path / "c.json")
    back = load_contract(tmp_path / "c.json")
    assert back == there
    assert back.digest == there.digest == json.loads((tmp_path / "c.json").read_text())["sha256"]
    assert back.samples[0].keys[0] == SampleKey("town", "9", "000004")
    assert back.vehicles == (2, 3)


@pytest.mark.parametrize(
    "change",
    [
        {"split": "validate"},
        {"name": "other"},
        {"pair_policy": "nearest"},
        {"seed": 1},
        {"max_distance_m": 50.0},
        {"samples": (sample(frame=2), sample())},  # the order counts
        {"samples": (sample(agents=("12", "7")), sample(frame=2))},  # so does who is the reference
    ],
)
def test_the_hash_covers_everything(change):
    assert replace(contract(), **change).digest != contract().digest


def test_a_change_by_hand_is_refused(tmp_path):
    path = tmp_path / "c.json"
    contract().write(path)
    path.write_text(path.read_text().replace('"000002"', '"000004"'))
    with pytest.raises(ContractError, match=r"c\.json: its content hashes to .* changed by hand"):
        load_contract(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "no frame contract"),
        ('{"format": "x"}', "no frame contract"),
        ('{"format": "coop3d-frame-contract", "version": 9}', "version is 9"),
    ],
)
def test_foreign_files_are_refused(tmp_path, text, message):
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(ContractError, match=message):
        load_contract(tmp_path / "c.json")
    with pytest.raises(ContractError, match=r"make_contract\.py"):
        load_contract(tmp_path / "absent.json")


def test_impossible_contracts_are_refused(tmp_path):
    with pytest.raises(ContractError, match="listed twice"):
        contract(samples=(sample(), sample()))
    with pytest.raises(
        ContractError, match=r"twice with one reference: town/000000 7\+12; town/000000 7\+31\. "
    ):
        contract(samples=(sample(frame=2), sample(), sample(agents=("7", "31"))))
    assert contract(samples=(sample(), sample(agents=("12", "7")))).vehicles == (2, 2)
    with pytest.raises(ContractError, match="no samples"):
        contract(samples=())
    with pytest.raises(ContractError, match="different ids"):
        sample(agents=("7", "7"))
    with pytest.raises(ContractError, match="pair_policy"):
        contract(pair_policy="random")
    with pytest.raises(ContractError, match="name"):
        contract(name="../evil")
    contract().write(tmp_path / "c.json")
    contract().write(tmp_path / "c.json")  # the same again is no harm
    with pytest.raises(ContractError, match="another contract"):
        contract(name="other").write(tmp_path / "c.json")


def test_fewer_vehicles_are_another_contract():
    wide = contract(samples=(sample(agents=("7", "12", "30")), sample(frame=2)))
    alone = wide.first_vehicles(1)
    assert [s.agents for s in alone.samples] == [("7",), ("7",)]
    assert alone.digest != wide.digest
    assert [s.agents for s in wide.first_vehicles(2).samples] == [("7", "12"), ("7", "12")]
    assert wide.first_vehicles(3) is wide


def test_a_draw_is_even_over_distances_and_scenarios_and_ignores_the_order_of_candidates():
    candidates = [
        sample(f"s{i % 4}", i, distance_m=d) for i, d in enumerate([5.0] * 40 + [20.0] * 40 + [45.0] * 3)
    ]
    drawn = draw_samples(candidates, 23, seed=0)
    near, middle, far = (sum(s.distance_m == d for s in drawn) for d in (5.0, 20.0, 45.0))
    assert (near, middle, far) == (10, 10, 3)  # all three there are, the rest shared
    assert max(Counter(s.scenario for s in drawn if s.distance_m == 5.0).values()) <= 3  # 10 over 4 scenarios
    assert draw_samples(candidates[::-1], 23, seed=0) == drawn
    assert draw_samples(candidates, 23, seed=1) != drawn
    assert list(drawn) == sorted(drawn, key=lambda s: (s.scenario, s.frame))
    assert len(draw_samples(candidates, None, 0)) == len(candidates)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.stem)
def test_shipped_contracts_are_whole(path):
    shipped = load_contract(path)
    assert shipped.name == path.stem
    assert shipped.pair_policy in ("first", "nearest")


def test_contracts_are_shipped():
    assert len(SHIPPED) >= 2
