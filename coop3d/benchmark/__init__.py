"""The benchmark: contracts, entrants, resumable passes over many processes, reports and comparisons.

Puts the other rooms together for measuring, as ``training`` does for learning; nothing imports it.
"""

from coop3d.benchmark.entrants import Blind
from coop3d.benchmark.evaluate import evaluate_run
from coop3d.benchmark.input_sets import InputSet
from coop3d.benchmark.journal import FolderError
from coop3d.benchmark.options import EvaluationOptions
from coop3d.benchmark.report import write_report
from coop3d.benchmark.results import EntrantResult, Result, ResultError, read_result, write_result
from coop3d.benchmark.samples import make_contract

__all__ = [
    "Blind",
    "EntrantResult",
    "EvaluationOptions",
    "FolderError",
    "InputSet",
    "Result",
    "ResultError",
    "evaluate_run",
    "make_contract",
    "read_result",
    "write_report",
    "write_result",
]
