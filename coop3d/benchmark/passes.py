"""What every kind of evaluation does: join processes, claim a folder, and pass over samples once per model or input."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from coop3d.benchmark.entrants import Blind, Entrant
from coop3d.benchmark.input_sets import InputSet
from coop3d.benchmark.journal import Identity, Journal, Scored, claim_folder
from coop3d.benchmark.options import EvaluationOptions
from coop3d.benchmark.runner import Autocast, PassTimes, Task, run_pass
from coop3d.benchmark.samples import Samples
from coop3d.conf import DistributedConf, Precision, Strategy
from coop3d.evaluation.contracts import FrameContract
from coop3d.files import writing
from coop3d.training.data import BadRecord
from coop3d.training.distributed import Processes, processes, set_backend_flags
from coop3d.training.run import Run
from coop3d.training.step import make_autocast


@contextmanager
def joined_processes(device: str) -> Iterator[Processes]:
    """Those that torchrun started, or this one alone, each with its device."""
    strategy = Strategy.ddp if int(os.environ.get("WORLD_SIZE", "1")) > 1 else Strategy.none
    with processes(DistributedConf(strategy=strategy, device=device)) as me:
        me.claim_device()
        yield me


def arithmetic_of(run: Run, me: Processes) -> Autocast:
    """A run's precision; also sets the backend's flags as it wants them, where another run's may be set."""
    set_backend_flags(tf32=bool(run.config.train_params.tf32))
    return make_autocast(Precision[run.config.train_params.precision], me.device)


@dataclass
class Passes:
    """Passes over samples, and what they and earlier calls have done, of all processes.

    Attributes:
        done: (entrant, sample) to scores.
        times: name of a pass to the times of every process.
    """

    me: Processes
    journal: Journal
    options: EvaluationOptions
    done: dict[tuple[str, str], Scored]
    times: dict[str, list[PassTimes]] = field(default_factory=dict)

    def run(
        self,
        name: str,
        run: Run,
        inputs: InputSet,
        samples: Samples,
        title: str,
        host: Sequence[Entrant] = (),
    ) -> list[BadRecord]:
        """Do what is missing of one pass; all processes learn the scores, and which samples could not be read."""
        task = Task(
            samples=samples,
            model=Blind(name, "checkpoint", run.model, inputs),
            host=host,
            done=frozenset(self.done),
            autocast=arithmetic_of(run, self.me),
        )
        parts = self.me.gather(run_pass(task, self.journal, self.me, self.options, title))
        self.done |= {(r.entrant, r.sample): r for part in parts for r in part.scored}
        self.times[name] = [part.times for part in parts]
        return [record for part in parts for record in part.bad]


@contextmanager
def claimed_passes(
    me: Processes, folder: Path, identity: Identity, contract: FrameContract, options: EvaluationOptions
) -> Iterator[Passes]:
    """Claim ``folder``, write the contract there and read the journal.

    Raises:
        FolderError, OSError: on every process, where one cannot have the folder.
    """
    error: BaseException | None = None
    if me.is_main:
        try:
            with writing(folder, "output_dir"):
                claim_folder(folder, identity, options.restart)
                contract.write(folder / "contract.json")
        except (ValueError, OSError) as caught:
            error = caught
    me.together(error)
    journal = Journal(folder / "journal", me.rank)
    passes = Passes(me, journal, options, journal.read())
    me.barrier()  # nobody writes before everybody has read
    try:
        yield passes
    finally:
        journal.close()
