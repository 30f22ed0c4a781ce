"""From finished runs to every file of a study."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from coop3d.benchmark.study.commands import evaluation_identity
from coop3d.benchmark.study.outcome import read_results, study_outcome
from coop3d.benchmark.study.page import write_page
from coop3d.benchmark.study.plan import Study
from coop3d.benchmark.study.record import StudyResult, write_record
from coop3d.benchmark.study.state import RunState
from coop3d.benchmark.study.tables import write_tables

log = logging.getLogger(__name__)


def collect(study: Study, folder: Path, states: Sequence[RunState]) -> StudyResult:
    """Compare what is finished, on every contract that some run was scored on as the study says now.

    Raises:
        ContractError: runs scored different samples.
        ResultError: an evaluation cannot be read.
    """
    outcomes = []
    for name, contract in study.evaluation.sets().items():
        identity = evaluation_identity(study, contract)
        results = read_results(states, name, identity)
        stale = [s.run.name for s in states if s.trained and s.evaluated.get(name, identity) != identity]
        if stale:
            log.warning(
                "%s: left out, scored with other settings: %s. Run them again.", name, ", ".join(stale)
            )
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
