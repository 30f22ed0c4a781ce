"""One checkpoint under every disturbance asked for, each paired with the clean run; resumable, by many processes."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from coop3d.benchmark.checkpoints import checkpoint_file, identified
from coop3d.benchmark.input_sets import InputSet
from coop3d.benchmark.journal import Identity
from coop3d.benchmark.options import RobustnessOptions
from coop3d.benchmark.passes import Passes, claimed_passes, joined_processes
from coop3d.benchmark.provenance import head, identity
from coop3d.benchmark.robustness.catalogue import SIGHT, Case, cases_of
from coop3d.benchmark.robustness.findings import Findings, by_sight, finding, intervals
from coop3d.benchmark.robustness.results import findings_table, write_findings
from coop3d.benchmark.robustness.sight import Pair, read_sights, sights_of, write_sights
from coop3d.benchmark.robustness.variants import Variant, clean_dataset, variant
from coop3d.benchmark.runner import PassTimes
from coop3d.benchmark.samples import Samples, choose_samples
from coop3d.conf import ConfigError
from coop3d.datasets import collate_coop
from coop3d.evaluation import ViewRow
from coop3d.progress import progress
from coop3d.training.data import BadRecord, draw, make_loader
from coop3d.training.distributed import Processes
from coop3d.training.run import Run, load_run

log = logging.getLogger(__name__)

CLEAN = "clean"


@dataclass(frozen=True, kw_only=True)
class Robustness:
    """What was found, where it is written, and how it came about (``robustness.json`` without its numbers)."""

    folder: Path
    findings: Findings
    head: Mapping[str, Any]
    table: str


def evaluate_robustness(
    checkpoint: str | Path,
    folder: str | Path,
    options: RobustnessOptions | None = None,
    overrides: Sequence[str] = (),
) -> Robustness:
    """Score a checkpoint on clean and on disturbed inputs, with the same targets.

    Every process that torchrun started calls it. Killed and called again, it does not repeat finished samples; a
    disturbance added later joins those that are done.

    Writes ``robustness.json``, ``robustness.csv``, ``table.txt``, ``robustness_rows/*.csv``, ``contract.json`` and
    ``journal/`` into ``folder`` (docs/robustness.md).

    Raises:
        ConfigError, ContractError, FolderError: before anything is computed, with what to do.
        ValueError: no clean sample could be read.
    """
    options = options if options is not None else RobustnessOptions()
    with joined_processes(options.device) as me:
        return _Work(me, checkpoint, Path(folder), options, overrides).done()


class _Work:
    """Everything that is decided before the first slow step, then the passes."""

    def __init__(
        self,
        me: Processes,
        checkpoint: str | Path,
        folder: Path,
        options: RobustnessOptions,
        overrides: Sequence[str],
    ) -> None:
        self.me, self.folder, self.options, self.overrides = me, folder, options, overrides
        cases = cases_of(options.disturbances)
        self.inputs = InputSet.parse(options.inputs)
        file = checkpoint_file(checkpoint)
        self.run: Run = load_run(file, me.device, overrides)
        self.samples: Samples = choose_samples(self.run, options.of_samples)
        clean_dataset(self.samples)
        self.checkpoint = {**identified(file), "step": self.run.step}
        self.with_sight = any(case.name == SIGHT for case in cases)
        self.variants = self._variants([case for case in cases if case.name != SIGHT])
        self.bad: list[BadRecord] = list(self.samples.left_out)

    def _variants(self, cases: Sequence[Case]) -> list[Variant]:
        """Of every case; what was asked for by name must be possible, of ``all`` the rest is skipped."""
        o = self.options
        found = [variant(case, self.samples, o.seed, o.batch) for case in cases]
        refused = [v for v in found if v.samples is None and v.case.name in o.disturbances]
        if refused:
            raise ConfigError("; ".join(f"disturbance {v.case.name}: {v.obstacle}" for v in refused))
        return found

    def done(self) -> Robustness:
        """Run what is missing, summarise, write."""
        todo = {CLEAN: self.samples}
        todo |= {v.case.name: v.samples for v in self.variants if v.samples is not None}
        rows: dict[str, list[ViewRow]] = {}
        contract, options = self.samples.contract, self.options.of_samples
        with claimed_passes(self.me, self.folder, self._identity(), contract, options) as passes:
            for number, (name, samples) in enumerate(todo.items(), 1):
                rows[name] = self._pass(passes, name, samples, f"{name} ({number} of {len(todo)})")
        return self._finished(rows, passes.times)

    def _identity(self) -> Identity:
        base = identity(
            self.run,
            self.samples,
            self.options.of_samples,
            self.overrides,
            {CLEAN: self.checkpoint},
            (),
            self.me.device,
        )
        model = base.entrants[CLEAN]
        entrants = {CLEAN: model}
        for v in self.variants:
            entrants[v.case.name] = {
                **model,
                "disturbance": repr(v.case.disturbance),
                "severity": v.case.severity,
            }
        settings = {**base.settings, "kind": "robustness", "seed": self.options.seed}
        return Identity(base.contract, settings, entrants)

    def _pass(self, passes: Passes, name: str, samples: Samples, title: str) -> list[ViewRow]:
        """One disturbance over its samples; what is done already is only looked up."""
        for record in passes.run(name, self.run, self.inputs, samples, title):
            log.warning("Bad sample under %s, left out: %s: %s", name, record.key, record.reason)
            self.bad.append(replace(record, reason=f"{name}: {record.reason}"))
        wanted = [samples.name_of(r) for r in sorted(r for requests in samples.batches for r in requests)]
        scored = [passes.done[name, sample] for sample in wanted if (name, sample) in passes.done]
        return [row for record in scored for row in record.rows]

    def _finished(
        self, rows: Mapping[str, Sequence[ViewRow]], times: Mapping[str, Sequence[PassTimes]]
    ) -> Robustness:
        if not rows[CLEAN]:
            reasons = "; ".join(b.reason for b in self.bad)
            raise ValueError(f"No sample of {self.samples.contract.name} could be read: {reasons}")
        findings = self._findings(rows)
        about = {
            **head(
                self.folder, self.run, self.samples, self.options.of_samples, self.overrides, self.bad, times,
                self.me.world_size,
            ),
            "options": asdict(self.options),
            "checkpoint": self.checkpoint,
        }  # fmt: skip
        title = (
            f"{self.checkpoint['path']} (step {self.run.step}) under {len(findings.cases)} disturbances, "
            f"{len({r.identity[:3] for r in rows[CLEAN]})} samples\n"
            f"{self.samples.contract.describe()}; {self.samples.mode}"
        )
        table = findings_table(title, findings)
        if self.me.is_main:
            write_findings(self.folder, about, findings, table, rows)
        self.me.barrier()
        return Robustness(folder=self.folder, findings=findings, head=about, table=table)

    def _findings(self, rows: Mapping[str, Sequence[ViewRow]]) -> Findings:
        clean, n = rows[CLEAN], self.options.resamples
        skipped = {v.case.name: v.obstacle for v in self.variants if v.samples is None}
        skipped |= {name: "no sample could be read" for name, some in rows.items() if not some}
        sight, unsighted = by_sight(clean, self._sights(clean), n) if self.with_sight else ({}, 0)
        if self.with_sight and not sight:
            skipped[SIGHT] = "no other vehicle with known range"
        return Findings(
            clean=intervals(clean, n),
            cases=tuple(
                finding(v.case, clean, rows[v.case.name], v.left_out, n)
                for v in self.variants
                if rows.get(v.case.name)
            ),
            skipped=skipped,
            sight=sight,
            unsighted=unsighted,
        )

    def _sights(self, clean: Sequence[ViewRow]) -> dict[Pair, float]:
        """Shared sight of every pair of the clean samples, from the targets; kept in the journal's folder."""
        path = self.folder / "journal" / "sight.json"
        stored = self.me.gather(read_sights(path) if self.me.is_main else {})[0]
        if stored.keys() >= {row.identity[:4] for row in clean if not row.is_reference}:
            return stored
        mine: dict[Pair, float] = {}
        batches = [list(b) for b in self.samples.batches][self.me.rank :: self.me.world_size]
        if batches:
            loader = make_loader(
                self.samples.dataset, batches, collate_coop, self.options.num_workers, 2, torch.device("cpu")
            )
            stream = iter(loader)
            for wanted in progress(batches, desc=SIGHT, disable=not self.me.is_main):
                batch = draw(stream, self.samples.dataset, wanted).batch
                if batch is not None:
                    mine |= sights_of(batch)
        found = {pair: share for part in self.me.gather(mine) for pair, share in part.items()}
        if self.me.is_main:
            write_sights(path, found)
        return found
