"""What is started for each arm and seed, and whether all arms can be composed and are given the same budget."""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from coop3d.benchmark.input_sets import InputSet
from coop3d.benchmark.study.plan import BUDGET_KEYS, Arm, ScoredContract, Study, StudyError
from coop3d.conf import ConfigError, compose, require_complete, require_paths, require_targets
from coop3d.conf.composition import in_quotes
from coop3d.environment import REPOSITORY
from coop3d.files import safe_name
from coop3d.training.checkpoint import BEST, LAST
from coop3d.training.launch import plain, prepare_machine
from coop3d.training.network import require_adapters
from coop3d.training.overrides import overridden

_CHECKED = ("machine", "dataset", "model", "preset", "loss")


@dataclass(frozen=True, kw_only=True)
class Run:
    """One arm trained with one seed.

    Attributes:
        arm, seed: which.
        folder: of the study's output that holds everything about it.
        steps: optimiser steps after which it is finished.
        global_batch: samples per step.
        overrides: what the trainer is told, without the run's folder.
    """

    arm: str
    seed: int
    folder: Path
    steps: int
    global_batch: int
    overrides: tuple[str, ...]

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.arm}/seed{self.seed}"

    @property
    def train_folder(self) -> Path:
        """``hydra.run.dir`` of the training."""
        return self.folder / "train"

    def evaluation_folder(self, set_name: str) -> Path:
        """``output_dir`` of the evaluation on one contract or split."""
        return self.folder / "evaluation" / safe_name(set_name)


def plan_runs(study: Study, folder: Path) -> list[Run]:
    """Every run of the study, seed by seed, so that all arms have one seed before any has two.

    Raises:
        StudyError: an arm's config does not compose, cannot be built, or has another budget than the base.
    """
    configs = {arm.name: composed(study, arm) for arm in study.arms.values()}
    check_budgets(study, configs)
    runs = []
    for seed in study.seeds:
        for arm in study.arms.values():
            params = configs[arm.name].train_params
            runs.append(
                Run(
                    arm=arm.name,
                    seed=seed,
                    folder=folder / "runs" / arm.name / f"seed{seed}",
                    steps=params.epochs * params.steps_per_epoch,
                    global_batch=params.global_batch,
                    overrides=(*overrides_of(study, arm), f"train_params.seed={seed}"),
                )
            )
    return runs


def overrides_of(study: Study, arm: Arm) -> tuple[str, ...]:
    """The study's base, the arm's changes, and the budget last."""
    return (*study.base, *arm.overrides, *(() if arm.own_budget else study.budget.overrides))


def composed(study: Study, arm: Arm) -> DictConfig:
    """The config that an arm trains with, checked as the trainer will check it.

    Raises:
        StudyError: naming the arm.
    """
    try:
        config = compose("train", overrides_of(study, arm))
        require_complete(config)
        require_targets(config, _CHECKED)
        OmegaConf.to_object(config.train_params)  # checks the values
    except ConfigError as error:
        raise StudyError(f"arm {arm.name}: {error}") from error
    return config


def check_budgets(study: Study, configs: Mapping[str, DictConfig]) -> None:
    """Whatever way an arm changes the budget, e.g. through a config group, it is noticed here.

    Raises:
        StudyError: naming the arm, the key, and both values.
    """
    base = composed(study, Arm(name="base"))
    for arm in study.arms.values():
        if arm.own_budget:
            continue
        for key in BUDGET_KEYS:
            found, expected = OmegaConf.select(configs[arm.name], key), OmegaConf.select(base, key)
            if found != expected:
                raise StudyError(
                    f"arm {arm.name}: its overrides make {key} {found}, the base has {expected}; all arms train on one "
                    "budget. Say budget: own if this arm must not."
                )


def prepare(study: Study) -> None:
    """Everything that can fail before the first run: inputs, contracts, data (synthetic ones are made, once).

    Raises:
        StudyError: naming the arm.
        ContractError: a contract cannot be read.
    """
    InputSet.parse(study.evaluation.inputs)
    study.evaluation.sets()
    for arm in study.arms.values():
        config = composed(study, arm)
        try:
            prepare_machine(config)
            require_paths(config)
            require_adapters(config)
            for contract in study.evaluation.contracts:
                _require_scored(config, study.evaluation.overrides, contract)
        except ConfigError as error:
            raise StudyError(f"arm {arm.name}: {error}") from error


def _require_scored(config: DictConfig, common: Sequence[str], contract: ScoredContract) -> None:
    """The data of a contract with overrides of its own exist."""
    if not contract.overrides:
        return
    try:
        moved = overridden(plain(config), (*common, *contract.overrides))
        require_paths(moved, how="evaluation.contracts overrides {key}=/path/to/it")
    except ConfigError as error:
        raise ConfigError(f"scored on {contract.path}: {error}") from error


def train_command(run: Run, processes: int) -> list[str]:
    """Training of a run; started again it resumes."""
    arguments = [*run.overrides, f"hydra.run.dir={quoted(run.train_folder)}"]
    return [*_launcher(processes, "train.py"), *arguments]


def evaluate_command(
    run: Run, study: Study, set_name: str, contract: ScoredContract | None, processes: int
) -> list[str]:
    """Evaluation of a trained run on one contract, or on the split; started again it resumes."""
    plan = study.evaluation
    checkpoint = run.train_folder / (BEST if plan.checkpoint == "best" else LAST)
    samples = "null" if plan.samples is None else plan.samples
    which = [f"split={plan.split}", f"max_samples={samples}"]
    if contract is not None:
        which = [f"frames_json={quoted(contract.path)}"]
    arguments = [
        f"checkpoint={quoted(checkpoint)}",
        f"output_dir={quoted(run.evaluation_folder(set_name))}",
        *which,
        f"inputs={quoted(plan.inputs)}",
        f"points={str(plan.points).lower()}",
        "baselines=[]",
        f"overrides=[{','.join(map(quoted, scoring_overrides(study, contract)))}]",
    ]
    return [*_launcher(processes, "evaluate.py"), *arguments]


def scoring_overrides(study: Study, contract: ScoredContract | None) -> tuple[str, ...]:
    """Changes of a run's saved config for scoring it: those for all, then the contract's."""
    return (*study.evaluation.overrides, *(() if contract is None else contract.overrides))


def training_identity(run: Run) -> str:
    """What a training is made of; another one may not go on in its folder."""
    return hashlib.sha256("\n".join(run.overrides).encode()).hexdigest()


def evaluation_identity(study: Study, contract: ScoredContract | None) -> str:
    """What an evaluation is made of, beside the checkpoint."""
    content = "split" if contract is None else hashlib.sha256(contract.path.read_bytes()).hexdigest()
    plan, changes = study.evaluation, scoring_overrides(study, contract)
    parts = (content, plan.split, plan.samples, plan.inputs, plan.checkpoint, plan.points, *changes)
    return hashlib.sha256("\n".join(map(str, parts)).encode()).hexdigest()


def quoted(value: object) -> str:
    """A value in Hydra's grammar, whatever characters it has."""
    if re.fullmatch(r"[\w./+-]+", str(value), re.ASCII):
        return str(value)
    return in_quotes(value)


def _launcher(processes: int, script: str) -> list[str]:
    path = str(REPOSITORY / "scripts" / script)
    if processes == 1:
        return [sys.executable, path]
    torchrun = ["-m", "coop3d.training.torchrun", "--standalone", "--nproc-per-node", str(processes)]
    return [sys.executable, *torchrun, path]
