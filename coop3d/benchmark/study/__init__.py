"""Studies: arms on one budget, trained with several seeds, compared with intervals. See docs/studies.md."""

from coop3d.benchmark.study.commands import Run, evaluate_command, plan_runs, prepare, train_command
from coop3d.benchmark.study.outcome import study_outcome
from coop3d.benchmark.study.plan import (
    ScoredContract,
    Study,
    StudyError,
    read_study,
)
from coop3d.benchmark.study.record import StudyResult
from coop3d.benchmark.study.report import collect, write_study
from coop3d.benchmark.study.runner import Stopped, StudyRunner

__all__ = [
    "Run",
    "ScoredContract",
    "Stopped",
    "Study",
    "StudyError",
    "StudyResult",
    "StudyRunner",
    "collect",
    "evaluate_command",
    "plan_runs",
    "prepare",
    "read_study",
    "study_outcome",
    "train_command",
    "write_study",
]
