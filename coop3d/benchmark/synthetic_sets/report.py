"""What to tell people about a synthetic data set on disk: what is there, its hashes, what can be done with it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from coop3d.benchmark.synthetic_sets.definition import SyntheticSet
from coop3d.benchmark.synthetic_sets.verification import Verdict, depth_root_of

MACHINES = {  # in configs/machine
    "coop3d-synth-v1": "synth",
    "coop3d-synth-v1-small": "synth_small",
    "coop3d-synth-v1-small-1200": "synth_small_1200",
    "coop3d-synth-v1-outskirts-small": "synth_outskirts",
}


def set_report(
    name: str, wanted: SyntheticSet, found: Verdict, root: Path, *, is_part: bool, layout_only: bool
) -> str:
    """Lines of text.

    Args:
        name: of the whole data set.
        wanted: the whole, or the slice of it that was asked for.
        found: by `make_set` or `verify_set`.
        root: folder of photographs.
        is_part: only some splits or scenarios were asked for.
        layout_only: photographs were not.
    """
    return "\n".join(_lines(name, wanted, found, root, is_part, layout_only))


def _lines(
    name: str, wanted: SyntheticSet, found: Verdict, root: Path, is_part: bool, layout_only: bool
) -> Iterator[str]:
    total, there = sum(wanted.config.scenarios.values()), len(found.scenarios)
    kind = "layout" if layout_only else "data"
    yield f"{wanted.name}: {kind} of {there} of {total} scenarios, {found.vehicle_frames} vehicle-frames"
    yield f"  layout   sha256 {found.layout_sha256}"
    compared = sum(key in wanted.scenarios for key in found.scenarios)
    if compared:
        same = compared - len(found.other_yaml)
        other = (
            f"; not {found.other_yaml[0]} (last digits differ between processors)" if found.other_yaml else ""
        )
        yield f"  YAML     of {same} of {compared} scenarios as published, byte for byte{other}"
    if layout_only:
        yield "  contracts: scripts/make_contract.py takes this folder; photographs: the same without --layout-only"
        return
    yield f"  content  sha256 {found.content_sha256} ({_sameness(found)})"
    for split, means in found.means.items():
        yield f"  {split}: " + ", ".join(f"{k} {v:.7g}" for k, v in means._asdict().items())
    yield f"  photographs {root}, depth {depth_root_of(root)}"
    for contract in wanted.contracts:
        yield f"  score on frames_json=configs/contracts/{contract}.json"
    # Training would go on to make the whole, which a slice's folder refuses and who asked for a part does not want.
    rest = "" if wanted.name == name and not is_part else " machine.synthetic=null"
    yield (
        f"  train with machine={MACHINES[name]} machine.opv2v_images_root={root} "
        f"machine.opv2v_depth_root={depth_root_of(root)}{rest}"
    )


def _sameness(found: Verdict) -> str:
    """How content compares with what was published."""
    if found.exact is None:
        return "nothing published to compare with"
    if found.exact:
        return "as published, bit for bit"
    if found.agreeing:
        return f"as published but for rounding of this processor, by the means of {', '.join(found.agreeing)}"
    return "not the published bits: another processor rounds so, and only means of whole splits could tell"
