"""Evaluation of checkpoints beside predictors that have not looked and ones that know, on identical samples."""

from __future__ import annotations

import logging
from collections.abc import Container, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

from coop3d.benchmark.baselines import BASELINES, FITTED, check_baselines
from coop3d.benchmark.checkpoints import checkpoint_file, identified, model_names
from coop3d.benchmark.entrants import Blind, Entrant
from coop3d.benchmark.fitting import training_statistics
from coop3d.benchmark.input_sets import InputSet
from coop3d.benchmark.journal import Identity
from coop3d.benchmark.options import EvaluationOptions
from coop3d.benchmark.passes import Passes, arithmetic_of, claimed_passes, joined_processes
from coop3d.benchmark.pixels import about_pixels
from coop3d.benchmark.provenance import head, identity
from coop3d.benchmark.results import EntrantResult, Result, entrant_result, result_table, write_result
from coop3d.benchmark.samples import Samples, choose_samples
from coop3d.benchmark.scenes import extremes, write_scenes
from coop3d.benchmark.views import Views, described_views, scored_split
from coop3d.conf import ConfigError
from coop3d.evaluation.contracts import ContractError
from coop3d.files import write_text
from coop3d.training.data import BadRecord
from coop3d.training.distributed import Processes
from coop3d.training.run import Run, load_run

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What an evaluation found, and where it is written."""

    folder: Path
    summaries: dict[str, dict[str, float]]  # models, then baselines
    table: str
    bad: tuple[BadRecord, ...]
    result: Result


def evaluate_run(
    checkpoint: str | Path | Sequence[str | Path],
    folder: str | Path,
    options: EvaluationOptions | None = None,
    overrides: Sequence[str] = (),
) -> Evaluation:
    """Score checkpoints and baselines; a model sees the declared fields of `ViewInputs` only.

    Every process that torchrun started calls it and takes a part of the samples; all return the same. Killed and
    called again, it does not repeat finished samples and ends with the same rows, bit for bit. Processes must
    share the folder's file system.

    Writes into ``folder``: ``per_frame.csv``, ``per_sample.csv``, ``trajectory.csv`` and ``summary.json`` of the
    first model, the same of every other entrant under its name, ``metrics.json`` (see docs/evaluation.md),
    ``table.txt``, ``contract.json``, ``bad_samples.txt``, ``config.yaml``, ``provenance.yaml``, ``journal/``,
    ``scenes/`` by option.

    Args:
        checkpoint: one or several ``checkpoint-*.pth`` or run directories.
        folder: made if absent.
        options: which samples and entrants.
        overrides: changes of the configs saved with the runs.

    Raises:
        ConfigError, ContractError, FolderError: before anything is computed, with what to do.
        ValueError: no sample could be read.
    """
    options = options if options is not None else EvaluationOptions()
    paths = [checkpoint] if isinstance(checkpoint, (str, Path)) else list(checkpoint)
    with joined_processes(options.device) as me:
        return evaluate_among(me, paths, Path(folder), options, overrides)


def evaluate_among(
    me: Processes,
    paths: Sequence[str | Path],
    folder: Path,
    options: EvaluationOptions,
    overrides: Sequence[str] = (),
) -> Evaluation:
    """As `evaluate_run`, for processes that are joined already."""
    plan = _plan(me, paths, options, overrides)
    bad = list(plan.samples.left_out)
    with claimed_passes(me, folder, plan.identity, plan.samples.contract, options) as passes:
        for name in plan.files:
            for record in _pass(plan, name, passes):
                if record not in bad:  # a pass before may have met it
                    log.warning("Bad sample, left out: %s: %s", record.key, record.reason)
                    bad.append(record)
    result = _result(me, folder, plan, passes, bad)
    for warning in about_pixels(result.entrants):
        log.warning(warning)
    table = _table(plan, result, bad)
    if me.is_main:
        _write(plan, result, table, bad)
        _scenes(me, plan, result)
    me.barrier()
    summaries = {e.name: dict(e.summary) for e in result.entrants}
    return Evaluation(folder=folder, summaries=summaries, table=table, bad=tuple(bad), result=result)


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """Everything that is decided, and checked, before the first slow step."""

    options: EvaluationOptions
    overrides: Sequence[str]
    inputs: InputSet
    files: dict[str, Path]  # model name -> checkpoint
    run: Run  # of the first
    samples: Samples  # as the first sees them
    baselines: tuple[str, ...]
    checkpoints: dict[str, dict[str, Any]]
    views: dict[str, Views]  # model name -> what it is scored on
    identity: Identity


def _plan(
    me: Processes, paths: Sequence[str | Path], options: EvaluationOptions, overrides: Sequence[str]
) -> _Plan:
    inputs, baselines = InputSet.parse(options.inputs), check_baselines(options.baselines)
    if options.alone and not options.points:
        raise ConfigError(
            "alone=true is for the gain in clouds, which points=false does not score: add points=true."
        )
    files = dict(zip(model_names(paths), map(checkpoint_file, paths), strict=True))
    run = load_run(next(iter(files.values())), me.device, overrides)
    samples = choose_samples(run, options)
    if "classical" in baselines and "pinhole" in samples.mode:
        log.warning("Baseline classical left out: it needs a rig's rays in one frame, i.e. panoramas.")
        baselines = tuple(name for name in baselines if name != "classical")
    checkpoints = {name: identified(file) for name, file in files.items()}
    return _Plan(
        options=options,
        overrides=overrides,
        inputs=inputs,
        files=files,
        run=run,
        samples=samples,
        baselines=baselines,
        checkpoints=checkpoints,
        views={},
        identity=identity(run, samples, options, overrides, checkpoints, baselines, me.device),
    )


def views_of(run: Run, options: EvaluationOptions) -> Views:
    """What the run's own config makes of the samples."""
    config: Any = OmegaConf.to_container(run.config, resolve=True)
    return described_views(config, scored_split(asdict(options)))


def _pass(plan: _Plan, name: str, passes: Passes) -> list[BadRecord]:
    """One model over all samples, the baselines go with the first; samples that could not be read."""
    is_first = name == next(iter(plan.files))
    run, samples = plan.run, plan.samples
    if not is_first:
        run = load_run(plan.files[name], passes.me.device, plan.overrides)
        samples = choose_samples(run, plan.options)
        if samples.contract.digest != plan.samples.contract.digest:
            raise ContractError(
                f"{plan.files[name]}: its config draws other samples than the first checkpoint's, so their scores "
                "could not be compared. Give frames_json=CONTRACT, or the same dataset through overrides."
            )
    plan.checkpoints[name]["step"] = run.step
    plan.views[name] = views_of(run, plan.options)
    host = _host_entrants(plan, passes) if is_first else []
    return passes.run(name, run, plan.inputs, samples, f"{name} on {samples.contract.name}", host)


def _host_entrants(plan: _Plan, passes: Passes) -> list[Entrant]:
    """Baselines with something left to do; fitted only if one of them needs it."""
    names = [str(s) for s in plan.samples.contract.samples]
    left = [b for b in plan.baselines if any((BASELINES[b].title, n) not in passes.done for n in names)]
    statistics, unfitted = None, ",".join(b for b in plan.baselines if b not in FITTED)
    if any(name in FITTED for name in left):
        try:
            statistics = training_statistics(
                plan.run, plan.options.baseline_samples, plan.options.num_workers, show=passes.me.is_main
            )
        except ConfigError as error:
            raise ConfigError(
                f"The trivial baselines ({', '.join(FITTED)}) are fitted on the training split, which cannot be read: "
                f"{error} Without it: baselines=[{unfitted}]."
            ) from error
    try:
        return [BASELINES[name].entrant(statistics) for name in left]
    except ValueError as error:
        raise ConfigError(
            f"baselines cannot be fitted: {error}. Leave them out (baselines=[{unfitted}]), or give the training "
            "split depth (dataset.depth_source)."
        ) from error


def _result(me: Processes, folder: Path, plan: _Plan, passes: Passes, bad: Sequence[BadRecord]) -> Result:
    """Every entrant's records of the samples that all of them have, in the contract's order, summarised."""
    kinds = {
        **dict.fromkeys(plan.files, ("checkpoint", plan.inputs.value)),
        **{b.title: (b.kind, b.inputs) for b in map(BASELINES.__getitem__, plan.baselines)},
    }
    names, dropped = _shared_samples(plan, list(kinds), passes.done, bad)
    first, entrants = next(iter(plan.files)), list[EntrantResult]()
    for name, (kind, inputs) in kinds.items():
        scored = [passes.done[name, sample] for sample in names]
        views = plan.views.get(name, plan.views[first])
        alone = plan.options.alone and name in plan.files  # baselines are not asked
        entrants.append(entrant_result(name, kind, inputs, scored, plan.checkpoints.get(name), views, alone))
    about = head(
        folder, plan.run, plan.samples, plan.options, plan.overrides, bad, passes.times, me.world_size
    )
    return Result(folder=folder, head={**about, "dropped": dropped}, entrants=tuple(entrants))


def _shared_samples(
    plan: _Plan, entrants: Sequence[str], done: Container[tuple[str, str]], bad: Sequence[BadRecord]
) -> tuple[list[str], list[dict[str, Any]]]:
    """Names of the samples that every entrant has, and those that only some have, as ``metrics.json`` lists them.

    A file that could be read in one pass only would otherwise shorten one entrant, and shift its scores.

    Raises:
        ValueError: no sample is left.
    """
    shared, dropped = [], []
    reasons = {b.key: b.reason for b in bad}
    for sample in plan.samples.contract.samples:
        missing = [name for name in entrants if (name, str(sample)) not in done]
        if not missing:
            shared.append(str(sample))
        elif len(missing) < len(entrants):
            reason = reasons.get(" + ".join(map(str, sample.keys)), "not known")
            dropped.append({"sample": str(sample), "not_scored_for": missing, "reason": reason})
            log.warning(
                "Left out of all: %s, not scored for %s: %s. The same command tries it again.",
                sample, ", ".join(missing), reason,
            )  # fmt: skip
    if not shared:
        listed = "; ".join(b.reason for b in bad)
        raise ValueError(f"No sample of {plan.samples.contract.name} could be read: {listed}")
    return shared, dropped


def _scenes(me: Processes, plan: _Plan, result: Result) -> None:
    """Pages of the first model's extremes, by option."""
    first = next(iter(plan.files))
    chosen = extremes(result.models[0], plan.options.scenes)
    if chosen:
        model = Blind(first, "checkpoint", plan.run.model, plan.inputs)
        write_scenes(result.folder, chosen, model, plan.samples, me.device, arithmetic_of(plan.run, me))


def _table(plan: _Plan, result: Result, bad: Sequence[BadRecord]) -> str:
    first = next(iter(plan.files))
    which = (
        f"{plan.files[first]} (step {plan.run.step})" if len(plan.files) == 1 else f"{len(plan.files)} models"
    )
    scored = len(result.entrants[0].samples)
    title = f"{which} on {plan.samples.contract.split}: {scored} samples, {len(bad)} unreadable"
    if dropped := result.head["dropped"]:
        title += f" ({len(dropped)} for some entrants only: left out of all)"
    warnings = "".join(f"\n! {w}" for w in about_pixels(result.entrants))
    about = f"{plan.samples.contract.describe()}; {plan.samples.mode}{warnings}"
    return result_table(f"{title}\n{about}", result.entrants)


def _write(plan: _Plan, result: Result, table: str, bad: Sequence[BadRecord]) -> None:
    folder = result.folder
    write_result(result)
    write_text(folder / "table.txt", table)
    write_text(folder / "bad_samples.txt", "".join(f"{b.key}: {b.reason}\n" for b in bad))
    write_text(folder / "config.yaml", OmegaConf.to_yaml(plan.run.config))
    environment = result.head["environment"]
    provenance = {
        "checkpoint": str(plan.run.checkpoint.resolve()),
        "step": plan.run.step,
        "code": result.head["code"],
        "torch": environment["packages"]["torch"],
        "host": environment["platform"],
    }
    write_text(folder / "provenance.yaml", yaml.safe_dump(provenance, sort_keys=False))
