"""How often is a difference called certain where there is none? Two runs drawn from one distribution, many times.

Numbers of docs/evaluation.md and docs/robustness.md; some minutes on one CPU core.

python benchmarks/false_certainty.py --output benchmarks/results/false_certainty.json
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from measure import report
from numpy.typing import NDArray
from tqdm import tqdm

from coop3d.evaluation import Comparison, compare, excludes_zero, survives_permutation
from coop3d.evaluation.estimators import Quantile, Ratio, Score
from coop3d.evaluation.scores import ScoreTable

SCENARIOS = (2, 3, 4, 5, 6, 7, 8, 12, 16, 24, 50)
Values = NDArray[np.float64]  # [2, N] of both runs
Codes = NDArray[np.int64]  # [N] scenario of each


def uniform(rng: np.random.Generator, scenarios: int) -> tuple[Values, Codes]:
    """One value per scenario between 0 and 1."""
    return rng.random((2, scenarios)), np.arange(scenarios)


def normal(rng: np.random.Generator, scenarios: int) -> tuple[Values, Codes]:
    """One value per scenario around 0."""
    return rng.normal(size=(2, scenarios)), np.arange(scenarios)


def errors(rng: np.random.Generator, scenarios: int) -> tuple[Values, Codes]:
    """Log-normal errors of 1 to 9 frames per scenario: scenarios differ for both runs alike, and for each alone."""
    scenario = np.repeat(np.arange(scenarios), rng.integers(1, 10, scenarios))
    level = rng.normal(size=(1, scenarios)) + 0.5 * rng.normal(size=(2, scenarios))
    return np.exp(level[:, scenario] + 0.5 * rng.normal(size=(2, len(scenario)))), scenario


def mean(values: NDArray[np.float64], scenario: Codes) -> Score:
    """Of all values."""
    return Ratio(values, np.ones_like(values), scenario)


KINDS: dict[str, tuple[Callable[..., tuple[Values, Codes]], Callable[..., Score]]] = {
    "mean, uniform": (uniform, mean),
    "mean, normal": (normal, mean),
    "mean, log-normal errors": (errors, mean),
    "median, log-normal errors": (errors, partial(Quantile, q=0.5)),
}


def alone(comparison: Comparison) -> bool:
    """Whether the interval lies on one side of 0, however few scenarios there are."""
    return comparison.low > 0 or comparison.high < 0


RULES: dict[str, Callable[[Comparison], bool]] = {
    "interval alone": alone,
    "excludes_zero": excludes_zero,
    "survives_permutation": survives_permutation,
}


def false_rates(kind: str, scenarios: int, repetitions: int) -> dict[str, float]:
    """Share of repetitions that each rule calls certain."""
    rng = np.random.default_rng(scenarios)
    draw, score = KINDS[kind]
    scores: tuple[dict[str, Score], dict[str, Score]] = ({}, {})
    for i in range(repetitions):
        values, scenario = draw(rng, scenarios)
        for run, of_run in zip(scores, values, strict=True):
            run[str(i)] = score(of_run, scenario)
    names = tuple(map(str, range(scenarios)))
    a, b = (ScoreTable(names, run, frozenset()) for run in scores)
    found = compare(a, b, list(scores[0])).values()
    return {rule: sum(map(certain, found)) / repetitions for rule, certain in RULES.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repetitions", type=int, default=1000)
    parser.add_argument("--output", type=Path, help="JSON file")
    args = parser.parse_args()
    rates = {
        kind: {n: false_rates(kind, n, args.repetitions) for n in tqdm(SCENARIOS, kind)} for kind in KINDS
    }
    report({"repetitions": args.repetitions, "false_rates": rates}, args.output)


if __name__ == "__main__":
    main()
