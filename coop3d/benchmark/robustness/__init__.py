"""How a trained model bears disturbed inputs: one pass per disturbance, paired with the undisturbed one."""

from coop3d.benchmark.robustness.catalogue import Case, cases_of, listing
from coop3d.benchmark.robustness.evaluate import Robustness, RobustnessOptions, evaluate_robustness
from coop3d.benchmark.robustness.findings import Finding, Findings
from coop3d.benchmark.robustness.page import write_robustness_page
from coop3d.benchmark.robustness.sight import shared_sight

__all__ = [
    "Case",
    "Finding",
    "Findings",
    "Robustness",
    "RobustnessOptions",
    "cases_of",
    "evaluate_robustness",
    "listing",
    "shared_sight",
    "write_robustness_page",
]
