"""Compare our MapAnything and its losses with recordings of the published implementation.

Example:
    python scripts/check_mapanything_parity.py --fixture DIR

Parts: ``model`` (outputs), ``losses`` (values and gradients of configs/loss/*_published), ``end_to_end`` (model and
loss together, down to every parameter). Without --parts all parts with recordings in the folder are checked.
Exits with status 1 if anything deviates by more than the limits in coop3d/models/parity.py and
coop3d/training/parity.py.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from coop3d.models import parity
from coop3d.models.parity import Deviation, Fixture
from coop3d.training.parity import CRITERIA, END_TO_END_LIMIT, EndToEndFixture, LossFixture

RECORDINGS = {"model": "manifest.json", "losses": "losses.json", "end_to_end": "e2e_grads.json"}


class Group(NamedTuple):
    """Tensors that share a line of the table."""

    label: str
    deviations: list[Deviation]
    ok: list[bool]  # of each deviation


def model_groups(folder: Path) -> Iterator[Group]:
    """Outputs of every run together, inner modules one by one."""
    fixture = Fixture(folder)
    for arch in fixture.manifest["archs"]:
        for run, deviations in fixture.compare(arch):
            outputs = [d for d in deviations if "/mid/" not in d.tensor]
            yield within_limits(f"{arch} {run} outputs", outputs)
            for d in deviations:
                if "/mid/" in d.tensor:
                    yield within_limits(f"{arch} {d.tensor.replace('/', ' ', 1)}", [d])


def loss_groups(folder: Path) -> Iterator[Group]:
    """Total, terms and gradients of every criterion in every case."""
    fixture = LossFixture(folder)
    for case in fixture.cases:
        for criterion in CRITERIA:
            for kind, deviations in fixture.compare(case, criterion):
                yield within_limits(f"loss {case} {criterion} {kind}", deviations)


def end_to_end_groups(folder: Path) -> Iterator[Group]:
    """Gradients of all parameters of every run."""
    fixture = EndToEndFixture(folder)
    for run in fixture.runs:
        deviations = fixture.compare(run)
        ok = [d.relative_l2 <= END_TO_END_LIMIT and d.max_error <= END_TO_END_LIMIT for d in deviations]
        yield Group(f"end to end {run} parameter gradients", deviations, ok)


PARTS = {"model": model_groups, "losses": loss_groups, "end_to_end": end_to_end_groups}


def within_limits(label: str, deviations: list[Deviation]) -> Group:
    """A group under the limits of single tensors."""
    return Group(label, deviations, [d.ok for d in deviations])


def print_group(group: Group, every: bool) -> None:
    """One line for the worst of a group, or one line for each of its tensors."""
    if every:
        for d, ok in zip(group.deviations, group.ok, strict=True):
            print_group(Group(f"{group.label} {d.tensor}", [d], [ok]), every=False)
        return
    n = len(group.deviations)
    label = f"{group.label} ({n})" if n > 1 else group.label
    l2, worst = max(d.relative_l2 for d in group.deviations), max(d.max_error for d in group.deviations)
    print(f"{label:<62}{l2:>10.1e}{worst:>10.1e}{'' if all(group.ok) else '  EXCEEDED'}")


def main() -> int:
    """Print the table; return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--fixture", type=Path, required=True, help="folder with the recordings")
    parser.add_argument("--parts", nargs="+", choices=PARTS, help="check only these; they must be recorded")
    parser.add_argument(
        "--all", action="store_true", help="print every tensor, not only the worst of a group"
    )
    args = parser.parse_args()
    parts = args.parts or [part for part, name in RECORDINGS.items() if (args.fixture / name).is_file()]
    missing = [RECORDINGS[part] for part in parts if not (args.fixture / RECORDINGS[part]).is_file()]
    if missing or not parts:
        absent = ", ".join(missing or RECORDINGS.values())
        parser.error(f"{args.fixture} has no {absent}; point --fixture at a folder with recordings")
    outside = 0
    print(f"{'what (tensors)':<62}{'rel. L2':>10}{'max err':>10}")
    for part in parts:
        for group in PARTS[part](args.fixture):
            outside += group.ok.count(False)
            print_group(group, args.all)
    limits = f"{parity.RELATIVE_L2_LIMIT:.0e} and {parity.MAX_ERROR_LIMIT:.0e}"
    print(f"limits: {limits}; end to end {END_TO_END_LIMIT:.0e}; tensors outside: {outside}")
    return int(outside > 0)


if __name__ == "__main__":
    sys.exit(main())
