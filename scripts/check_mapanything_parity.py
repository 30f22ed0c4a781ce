"""Compare our MapAnything with recorded outputs of the published implementation.

Example:
    python scripts/check_mapanything_parity.py --fixture ../shared/parity

Exits with status 1 if any tensor of any run deviates by more than the limits in coop3d/models/parity.py.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from coop3d.models.parity import MAX_ERROR_LIMIT, RELATIVE_L2_LIMIT, Fixture


def main() -> int:
    """Print one row per run and kind of tensor; return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--fixture", type=Path, required=True, help="folder with manifest.json and recordings"
    )
    parser.add_argument("--all", action="store_true", help="print every tensor, not only each run's worst")
    args = parser.parse_args()
    if not (args.fixture / "manifest.json").is_file():
        parser.error(f"{args.fixture} has no manifest.json; point --fixture at a folder with recordings")
    fixture = Fixture(args.fixture)
    failures = 0
    print(f"{'architecture, run, tensors':<62}{'rel. L2':>10}{'max err':>10}")
    for arch in fixture.manifest["archs"]:
        for run, deviations in fixture.compare(arch):
            failures += sum(not d.ok for d in deviations)
            groups = {"outputs": [d for d in deviations if "/mid/" not in d.tensor]}
            groups |= {d.tensor.split("/", 1)[1]: [d] for d in deviations if "/mid/" in d.tensor}
            if args.all:
                groups = {d.tensor.split("/", 1)[1]: [d] for d in deviations}
            for name, group in groups.items():
                label = f"{arch} {run} {name}" + (f" ({len(group)})" if len(group) > 1 else "")
                l2, worst = max(d.relative_l2 for d in group), max(d.max_error for d in group)
                mark = "" if all(d.ok for d in group) else "  EXCEEDED"
                print(f"{label:<62}{l2:>10.1e}{worst:>10.1e}{mark}")
    print(f"limits: {RELATIVE_L2_LIMIT:.0e}, {MAX_ERROR_LIMIT:.0e}; tensors outside: {failures}")
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
