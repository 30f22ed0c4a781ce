"""From finished runs to every file of a study."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from coop3d.benchmark.study.outcome import read_results, study_outcome
from coop3d.benchmark.study.page import write_page
from coop3d.benchmark.study.plan import Study
from coop3d.benchmark.study.record import StudyResult, write_record
from coop3d.benchmark.study.state import RunState
from coop3d.benchmark.study.tables import write_tables


def collect(study: Study, folder: Path, states: Sequence[RunState]) -> StudyResult:
    """Compare what is finished, on every contract that some run was scored on.

    Raises:
        ContractError: runs scored different samples.
        ResultError: an evaluation cannot be read.
    """
    outcomes = []
    for name in study.evaluation.sets():
        results = read_results(states, name)
        if results:
            outcomes.append(study_outcome(study, name, results))
    return StudyResult(study=study, folder=folder, states=tuple(states), outcomes=tuple(outcomes))


def write_study(result: StudyResult) -> tuple[str, Path]:
    """Write ``study.csv``, ``study.json``, ``table.txt``, ``table.md``, pictures and ``study.html``.

    Returns:
        The table, and the page's path.
    """
    write_record(result)
    return write_tables(result), write_page(result)
