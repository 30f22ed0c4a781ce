"""How a trained model bears disturbed inputs: one pass per disturbance, paired with the undisturbed one."""

from coop3d.benchmark.options import RobustnessOptions
from coop3d.benchmark.robustness.catalogue import cases_of, listing
from coop3d.benchmark.robustness.evaluate import evaluate_robustness
from coop3d.benchmark.robustness.page import write_robustness_page
from coop3d.benchmark.robustness.sight import shared_sight

__all__ = [
    "RobustnessOptions",
    "cases_of",
    "evaluate_robustness",
    "listing",
    "shared_sight",
    "write_robustness_page",
]
