"""A study as its file describes it: arms on one budget, seeds, how they are evaluated."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from coop3d.conf import ConfigError
from coop3d.evaluation import HEADLINE
from coop3d.evaluation.contracts import FrameContract, load_contract

SCORES = (
    "pose/translation_m/median", "pose/rotation_deg/median", "pose/recall_5m_5deg", "pose/sign_flip_rate",
    "scale/error/median", "range/abs_rel", "mask/iou",
)  # fmt: skip
CHECKPOINTS = ("best", "last")
BUDGET_KEYS = ("train_params.epochs", "train_params.steps_per_epoch", "train_params.global_batch")
RUNNER_KEYS = ("train_params.seed", "hydra.run.dir")  # set by the runner for each run
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


class StudyError(ConfigError):
    """A study that cannot be run; the message says which key of which file, and what to do."""


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Optimiser steps of every run, with evenly spaced validations."""

    steps: int
    validations: int

    @property
    def overrides(self) -> tuple[str, ...]:
        """What the trainer is told."""
        steps_per_epoch = self.steps // self.validations
        return (f"train_params.epochs={self.validations}", f"train_params.steps_per_epoch={steps_per_epoch}")


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One way to train: changes of the study's base.

    Attributes:
        name: also of its folder.
        overrides: Hydra's ``key=value``, after the base's.
        note: what it is about, in words.
        own_budget: trains for as long as its own overrides say; marked in every table.
    """

    name: str
    overrides: tuple[str, ...] = ()
    note: str = ""
    own_budget: bool = False


@dataclass(frozen=True, kw_only=True)
class ScoredContract:
    """A frame contract, and where it is scored.

    Attributes:
        path: of the contract.
        overrides: changes of every run's saved config for this contract, after those of the plan: the roots of
            another data set than the one trained on.
    """

    path: Path
    overrides: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class EvaluationPlan:
    """How every trained run is scored.

    Attributes:
        contracts: each scored by itself; none: ``split`` and ``samples``.
        split: of the run's config, where there is no contract.
        samples: at most so many of it, evenly spread; None: those the config gives.
        inputs: what models may see, see `EvaluationOptions`.
        checkpoint: ``best`` by the run's own validation, or ``last``.
        points: also score point clouds.
        overrides: changes of every run's saved config, e.g. one depth source as everyone's truth.
    """

    contracts: tuple[ScoredContract, ...] = ()
    split: str = "test"
    samples: int | None = None
    inputs: str = "images+rays+rig"
    checkpoint: str = "best"
    points: bool = False
    overrides: tuple[str, ...] = ()

    def sets(self) -> dict[str, ScoredContract | None]:
        """What is scored, by name: a contract each, or None for the split.

        Raises:
            ContractError: a contract cannot be read.
            StudyError: two contracts have one name.
        """
        if not self.contracts:
            return {self.split: None}
        loaded: list[FrameContract] = [load_contract(contract.path) for contract in self.contracts]
        names = [contract.name for contract in loaded]
        if len(set(names)) < len(names):
            raise StudyError(
                f"evaluation.contracts: {', '.join(names)} are not different names of contracts."
            )
        return dict(zip(names, self.contracts, strict=True))


@dataclass(frozen=True, kw_only=True)
class Study:
    """Arms that differ in what is studied and in nothing else.

    Attributes:
        name, description: for titles.
        base: overrides that all arms share.
        seeds: every arm trains once with each.
        budget: of every arm without ``own_budget``.
        arms: by name, in the order of the file.
        against: name of the arm that the others are compared with.
        evaluation: how runs are scored.
        scores: summary keys for tables and pictures; ``study.json`` has all headline scores.
    """

    name: str
    description: str
    base: tuple[str, ...]
    seeds: tuple[int, ...]
    budget: Budget
    arms: Mapping[str, Arm]
    against: str
    evaluation: EvaluationPlan
    scores: tuple[str, ...] = SCORES


def read_study(path: Path | str, more: Sequence[str] = ()) -> Study:
    """Read and check a study file.

    Args:
        path: YAML, see docs/studies.md.
        more: overrides to append to its ``base``, e.g. ``machine=local3090``.

    Raises:
        StudyError: naming file and key, what was found and what was expected.
    """
    path = Path(path)
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=UniqueKeys)
    except OSError as error:
        raise StudyError(
            f"{path}: cannot be read ({error.strerror}); configs/studies/ holds examples."
        ) from error
    except yaml.YAMLError as error:
        raise StudyError(f"{path}: is no valid YAML: {' '.join(str(error).split())}") from error
    root = _Node(path, "", content)
    root.only("name", "description", "base", "seeds", "budget", "arms", "against", "evaluation", "scores")
    arms = _arms(root.node("arms"))
    base = root.overrides("base", default=None)
    _refuse(root, "base", [*base, *more], RUNNER_KEYS)
    return Study(
        name=root.name("name", path.stem),
        description=" ".join(root.text("description", "").split()),
        base=(*base, *more),
        seeds=_seeds(root),
        budget=_budget(root.node("budget")),
        arms=arms,
        against=root.choice("against", tuple(arms), next(iter(arms))),
        evaluation=_evaluation(root.node("evaluation", {})),
        scores=_scores(root),
    )


def key_of(override: str) -> str:
    """The key that an override of Hydra's grammar sets, adds or deletes."""
    return override.lstrip("+~").split("=", 1)[0].split("@", 1)[0]


def _arms(node: _Node) -> dict[str, Arm]:
    arms: dict[str, Arm] = {}
    for name in node.mapping:
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise node.error(name, f"found {name!r}, expected a name of letters, digits, '_', '-' and '.'")
        part = node.node(name)
        part.only("overrides", "note", "budget")
        own = part.choice("budget", ("equal", "own"), "equal") == "own"
        overrides = part.overrides("overrides", default=())
        _refuse(part, "overrides", overrides, RUNNER_KEYS)
        if not own:
            _refuse(part, "overrides", overrides, BUDGET_KEYS)
        arms[name] = Arm(name=name, overrides=overrides, note=part.text("note", ""), own_budget=own)
    if not arms:
        raise node.error("", "found no arm, expected at least one")
    return arms


def _refuse(node: _Node, key: str, overrides: Sequence[str], forbidden: Sequence[str]) -> None:
    for override in overrides:
        name = key_of(override)
        if name in forbidden:
            advice = (
                "the runner sets it for every run"
                if name in RUNNER_KEYS
                else "all arms train on one budget; say budget: own if this arm must not"
            )
            raise node.error(key, f"found {override!r}: {advice}")


def _seeds(root: _Node) -> tuple[int, ...]:
    seeds = root.sequence("seeds", [0])
    if not seeds or any(type(s) is not int or s < 0 for s in seeds) or len(set(seeds)) < len(seeds):
        raise root.error("seeds", f"found {seeds!r}, expected different whole numbers >= 0")
    return tuple(seeds)


def _budget(node: _Node) -> Budget:
    node.only("steps", "validations")
    steps, validations = node.count("steps"), node.count("validations", 1)
    if steps % validations:
        raise node.error("validations", f"found {validations}, expected a divisor of steps ({steps})")
    return Budget(steps=steps, validations=validations)


def _evaluation(node: _Node) -> EvaluationPlan:
    node.only("contracts", "split", "samples", "inputs", "checkpoint", "points", "overrides")
    contracts = _contracts(node)
    if contracts and (node.has("split") or node.has("samples")):
        raise node.error("contracts", "a contract lists its samples: leave out split and samples")
    points = node.mapping.get("points", False)
    if type(points) is not bool:
        raise node.error("points", f"found {points!r}, expected true or false")
    return EvaluationPlan(
        contracts=contracts,
        split=node.choice("split", ("train", "val", "test"), "test"),
        samples=None if node.mapping.get("samples") is None else node.count("samples"),
        inputs=node.text("inputs", EvaluationPlan.inputs),
        checkpoint=node.choice("checkpoint", CHECKPOINTS, "best"),
        points=points,
        overrides=node.overrides("overrides", default=()),
    )


def _contracts(node: _Node) -> tuple[ScoredContract, ...]:
    """Paths, or mappings of a path and overrides."""
    found = []
    for number, entry in enumerate(node.sequence("contracts", [])):
        if isinstance(entry, str):
            found.append(ScoredContract(path=Path(entry)))
            continue
        if not isinstance(entry, dict):
            raise node.error("contracts", f"found {entry!r}, expected a path, or contract and overrides")
        part = _Node(node.path, f"{node.place}.contracts.{number}", entry)
        part.only("contract", "overrides")
        path = part.text("contract", "")
        if not path:
            raise part.error("contract", "is missing, expected the path of a contract")
        found.append(ScoredContract(path=Path(path), overrides=part.overrides("overrides", default=None)))
    return tuple(found)


def _scores(root: _Node) -> tuple[str, ...]:
    scores = root.sequence("scores", list(SCORES))
    unknown = [s for s in scores if s not in HEADLINE]
    if unknown or not scores:
        raise root.error("scores", f"found {unknown or scores}, expected some of {', '.join(HEADLINE)}")
    return tuple(scores)


class UniqueKeys(yaml.SafeLoader):
    """PyYAML keeps the last of two equal keys: an arm would vanish in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """As PyYAML's, refusing a key that is there already."""
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, str) and key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} is there twice", key_node.start_mark
                )
            seen.add(key if isinstance(key, str) else id(key_node))
        return super().construct_mapping(node, deep=deep)


class _Node:
    """A mapping of the file that knows its place, for messages."""

    def __init__(self, path: Path, place: str, content: Any) -> None:
        self.path, self.place = path, place
        if not isinstance(content, dict):
            raise self.error("", f"found {content!r}, expected a mapping")
        self.mapping: dict[Any, Any] = content

    def error(self, key: object, what: str) -> StudyError:
        where = ".".join(part for part in (self.place, str(key)) if part)
        return StudyError(f"{self.path}: {where or 'the file'}: {what}.")

    def has(self, key: str) -> bool:
        return key in self.mapping

    def only(self, *known: str) -> None:
        for key in self.mapping:
            if key not in known:
                raise self.error(key, f"is no key of a study; known here are {', '.join(known)}")

    def node(self, key: str, default: Any = None) -> _Node:
        place = f"{self.place}.{key}" if self.place else key
        if key not in self.mapping and default is None:
            raise self.error(key, "is missing, expected a mapping")
        return _Node(self.path, place, self.mapping.get(key, default))

    def text(self, key: str, default: str) -> str:
        value = self.mapping.get(key, default)
        if not isinstance(value, str):
            raise self.error(key, f"found {value!r}, expected text")
        return value

    def name(self, key: str, default: str) -> str:
        value = self.text(key, default)
        if not _NAME.fullmatch(value):
            raise self.error(key, f"found {value!r}, expected a name of letters, digits, '_', '-' and '.'")
        return value

    def choice(self, key: str, known: Sequence[str], default: str) -> str:
        value = self.mapping.get(key, default)
        if value not in known:
            raise self.error(key, f"found {value!r}, expected one of {', '.join(known)}")
        return str(value)

    def count(self, key: str, default: int | None = None) -> int:
        value = self.mapping.get(key, default)
        if type(value) is not int or value < 1:
            found = f"found {value!r}" if key in self.mapping else "is missing"
            raise self.error(key, f"{found}, expected a whole number of at least 1")
        return value

    def sequence(self, key: str, default: list[Any]) -> list[Any]:
        value = self.mapping.get(key, default)
        if not isinstance(value, list):
            raise self.error(key, f"found {value!r}, expected a list")
        return value

    def overrides(self, key: str, default: tuple[str, ...] | None) -> tuple[str, ...]:
        """A list of ``key=value``; ``~key`` deletes."""
        if default is None and key not in self.mapping:
            raise self.error(key, "is missing, expected a list of overrides such as model=tiny")
        values = self.sequence(key, list(default or ()))
        for value in values:
            if not isinstance(value, str) or not ("=" in value or value.startswith("~")):
                raise self.error(key, f"found {value!r}, expected text like key=value (quote it in the file)")
        return tuple(values)
