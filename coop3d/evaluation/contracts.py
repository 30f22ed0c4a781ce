"""Frame contracts: named, hashed lists of exactly which vehicles of which instants are scored.

Two numbers can be compared only if they were measured on the same samples. The pair policy alone (which partner a
reference gets) changes trivial baselines threefold, so a result carries the contract it was measured on, by content.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from coop3d.evaluation.rows import BUCKETS, distance_bucket
from coop3d.files import write_text
from coop3d.types import SampleKey

FORMAT, VERSION = "coop3d-frame-contract", 1
PAIR_POLICIES = ("first", "nearest")  # a random partner could not be drawn again
_NAME = re.compile(r"[A-Za-z0-9][\w.+-]{0,99}")


class ContractError(ValueError):
    """A contract that cannot be used; the message says which, and what to do."""


@dataclass(frozen=True, kw_only=True)
class ContractSample:
    """One instant: the vehicles in loading order, the reference first."""

    scenario: str
    frame: str
    agents: tuple[str, ...]
    distance_m: float | None = (
        None  # from the reference to the farthest other vehicle; None: alone or not known
    )

    def __post_init__(self) -> None:
        if not self.agents or len(set(self.agents)) != len(self.agents):
            raise ContractError(
                f"sample {self.scenario}/{self.frame}: agents are {list(self.agents)}, expected one or more "
                "different ids, the reference first"
            )

    @property
    def reference(self) -> str:
        """The vehicle whose frame everything is expressed in."""
        return self.agents[0]

    @property
    def keys(self) -> tuple[SampleKey, ...]:
        """Vehicles in loading order."""
        return tuple(SampleKey(self.scenario, agent, self.frame) for agent in self.agents)

    @classmethod
    def from_keys(cls, keys: Sequence[SampleKey], distance_m: float | None = None) -> ContractSample:
        """Vehicles of one instant, reference first."""
        agents = tuple(key.agent for key in keys)
        return cls(scenario=keys[0].scenario, frame=keys[0].frame, agents=agents, distance_m=distance_m)

    def __str__(self) -> str:
        return f"{self.scenario}/{self.frame} {'+'.join(self.agents)}"


@dataclass(frozen=True, kw_only=True)
class FrameContract:
    """What is scored, in which order.

    Attributes:
        name: letters, digits, ``. _ + -``.
        split: folder under the images root.
        samples: each of another instant or reference; with other partners a sample is no other one, as scores are named
            by scenario, frame and reference.
        pair_policy: how partners were chosen, ``first`` or ``nearest``; None: not by this project's rule.
        max_distance_m: partners lie within it; None: no limit.
        seed: of the draw; None: every usable instant, or given by hand.
    """

    name: str
    split: str
    samples: tuple[ContractSample, ...]
    pair_policy: str | None = None
    max_distance_m: float | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ContractError(f"contract name {self.name!r}: use letters, digits and . _ + -, at most 100")
        if self.pair_policy is not None and self.pair_policy not in PAIR_POLICIES:
            raise ContractError(f"{self.name}: pair_policy is {self.pair_policy!r}, expected {PAIR_POLICIES}")
        if not self.samples:
            raise ContractError(f"{self.name}: the contract has no samples")
        first: dict[tuple[str, str, str], ContractSample] = {}
        for sample in self.samples:
            known = first.setdefault((sample.scenario, sample.frame, sample.reference), sample)
            if known is not sample:
                raise ContractError(
                    f"{self.name}: one instant is listed twice with one reference: {known}; {sample}. It would count "
                    "twice, and the scores could not be told apart: keep one, or put another vehicle first"
                )

    @property
    def vehicles(self) -> tuple[int, int]:
        """(fewest, most) vehicles of a sample."""
        counts = [len(s.agents) for s in self.samples]
        return min(counts), max(counts)

    @property
    def digest(self) -> str:
        """SHA-256 over everything the file holds, in hexadecimal."""
        return _digest(self._content())

    @property
    def samples_digest(self) -> str:
        """SHA-256 over what is scored: the split, and vehicles in loading order; not names, nor order of samples."""
        return _digest({"split": self.split, "samples": sorted(map(str, self.samples))})

    def buckets(self) -> dict[str, int]:
        """Samples per distance bucket, where distances are known."""
        names = [distance_bucket(s.distance_m) for s in self.samples if s.distance_m is not None]
        return {bucket: names.count(bucket) for bucket in BUCKETS if bucket in names}

    def first_vehicles(self, count: int) -> FrameContract:
        """The same instants with the first ``count`` vehicles of each: another contract, with a name that says so."""
        if count < 1:
            raise ContractError(f"vehicles is {count}, expected at least 1")
        if count >= self.vehicles[1]:
            return self
        samples = tuple(
            replace(s, agents=s.agents[:count], distance_m=None) if count < len(s.agents) else s
            for s in self.samples
        )
        return replace(self, name=f"{self.name}.first{count}", samples=samples)

    def describe(self) -> str:
        """One line for a table's head."""
        low, high = self.vehicles
        count = f"{low}" if low == high else f"{low}-{high}"
        return (
            f"{self.name} ({self.split}, {len(self.samples)} samples of {count} vehicles, {self.digest[:12]})"
        )

    def write(self, path: Path | str) -> None:
        """Write JSON with its hash, atomically.

        Raises:
            ContractError: another contract is there already.
        """
        path = Path(path)
        if path.exists() and load_contract(path).digest != self.digest:
            raise ContractError(f"{path} holds another contract; choose another name, or remove it first")
        content = self._content()
        lines = ",\n".join(f"    {json.dumps(sample)}" for sample in content.pop("samples"))
        head = json.dumps({**content, "sha256": self.digest}, indent=2)
        write_text(path, f'{head.removesuffix("}").rstrip()},\n  "samples": [\n{lines}\n  ]\n}}\n')

    def _content(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "version": VERSION,
            "name": self.name,
            "split": self.split,
            "pair_policy": self.pair_policy,
            "max_distance_m": self.max_distance_m,
            "seed": self.seed,
            "vehicles": list(self.vehicles),
            "samples": [
                {
                    "scenario": s.scenario,
                    "frame": s.frame,
                    "reference": s.reference,
                    "agents": list(s.agents),
                    "distance_m": s.distance_m,
                }
                for s in self.samples
            ],
        }


def load_contract(path: Path | str) -> FrameContract:
    """Read a contract and check its hash.

    Raises:
        ContractError: not a contract, of another version, or changed since it was written.
    """
    path = Path(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ContractError(
            f"{path}: there is no such contract; make one with scripts/make_contract.py"
        ) from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ContractError(f"{path}: is not JSON ({error})") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ContractError(f"{path}: is no frame contract: key format is not {FORMAT!r}")
    if content.get("version") != VERSION:
        raise ContractError(f"{path}: version is {content.get('version')!r}, this code reads {VERSION}")
    stored = content.pop("sha256", None)
    found = _digest(content)
    if stored != found:
        raise ContractError(
            f"{path}: its content hashes to {found[:12]}, but it says {str(stored)[:12]}: it was changed by hand or "
            "damaged. Take it from where it came, or make a new one under a new name with scripts/make_contract.py."
        )
    return _parsed(content, path)


def _parsed(content: dict[str, Any], path: Path) -> FrameContract:
    try:
        samples = [
            ContractSample(
                scenario=s["scenario"],
                frame=s["frame"],
                agents=tuple(s["agents"]),
                distance_m=s["distance_m"],
            )
            for s in content["samples"]
        ]
        if any(s["reference"] != s["agents"][0] for s in content["samples"]):
            raise ContractError("the reference must be the first of a sample's agents")
        fields = {k: content[k] for k in ("name", "split", "pair_policy", "max_distance_m", "seed")}
        return FrameContract(samples=tuple(samples), **fields)
    except ContractError as error:
        raise ContractError(f"{path}: {error}") from error
    except (KeyError, TypeError, IndexError) as error:
        raise ContractError(
            f"{path}: {type(error).__name__} {error}: a key is missing or of another type"
        ) from error


def _digest(content: Mapping[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def draw_samples(
    candidates: Sequence[ContractSample], count: int | None, seed: int
) -> tuple[ContractSample, ...]:
    """Choose samples evenly over distance buckets, and within each evenly over scenarios.

    Buckets with fewer candidates than their share give all they have and the others fill up. Samples without a
    distance (one vehicle) are one bucket. The result is sorted by scenario and frame.

    Args:
        candidates: in any order; the draw does not depend on it.
        count: how many; None: all.
        seed: of the draw.
    """
    ordered = sorted(candidates, key=lambda s: (s.scenario, s.frame, s.agents))
    if count is not None and count < 1:
        raise ContractError(f"count is {count}, expected at least 1")
    if count is None or count >= len(ordered):
        return tuple(ordered)
    rng = np.random.default_rng(seed)
    buckets: dict[str, list[ContractSample]] = {}
    for i in rng.permutation(len(ordered)):
        sample = ordered[i]
        name = "" if sample.distance_m is None else distance_bucket(sample.distance_m)
        buckets.setdefault(name, []).append(sample)
    queues = [_by_turns(buckets[name]) for name in ("", *BUCKETS) if name in buckets]
    chosen = [s for turn in _turns(queues) for s in turn][:count]
    return tuple(sorted(chosen, key=lambda s: (s.scenario, s.frame, s.agents)))


def _by_turns(samples: Sequence[ContractSample]) -> list[ContractSample]:
    """The samples of every scenario in turn."""
    scenarios: dict[str, list[ContractSample]] = {}
    for sample in samples:
        scenarios.setdefault(sample.scenario, []).append(sample)
    return [s for turn in _turns(list(scenarios.values())) for s in turn]


def _turns(queues: Sequence[Sequence[ContractSample]]) -> list[list[ContractSample]]:
    """The first of every queue, then the second of every queue, and so on."""
    longest = max((len(q) for q in queues), default=0)
    return [[q[i] for q in queues if i < len(q)] for i in range(longest)]
