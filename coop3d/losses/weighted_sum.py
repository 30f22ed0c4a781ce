"""The loss: a weighted sum of named terms."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import TypeVar

import torch
from torch import Tensor, nn

from coop3d.geometry.precision import full_precision
from coop3d.losses.scene import Scene
from coop3d.losses.term import REDUCTIONS, Reduction, Term
from coop3d.types import FactoredPrediction, ViewTargets

R = TypeVar("R", FactoredPrediction, ViewTargets)


@dataclass(frozen=True, kw_only=True)
class LossOutput:
    """Scalars only. ``total`` carries the graph, everything else is detached."""

    total: Tensor
    terms: dict[str, Tensor]  # unweighted value of each term
    statistics: dict[str, Tensor]  # "<term>/<what>": means worth watching that are not part of the loss

    def scalars(self) -> dict[str, Tensor]:
        """Everything worth plotting, by name, with the total."""
        return {"total": self.total.detach(), **self.terms, **self.statistics}


class WeightedSum(nn.Module):
    """``sum_k weight_k * reduced value of term_k``.

    With ``sample_mean`` every term is a mean over samples of per-sample means, so the loss of a batch equals
    the mean of the losses of its equal parts: DDP, which averages gradients, needs no further normaliser. A
    sample on which a term has nothing to say (empty mask, not metric) contributes 0 and still counts in the
    denominator. ``view_sum`` is MapAnything's reduction, see `TermValue.reduced`.

    Runs outside autocast, without TF32 and in at least float32: a logarithm of bfloat16 metres has two digits.

    Args:
        terms: by name.
        reduction: how per-view sums become a number.
        curriculum: by name of a term, the factor on its weight at a fraction of training (`PiecewiseLinear`).
    """

    def __init__(
        self,
        terms: Mapping[str, Term],
        reduction: Reduction = "sample_mean",
        curriculum: Mapping[str, Callable[[float], float]] | None = None,
    ) -> None:
        super().__init__()
        if not terms:
            raise ValueError("WeightedSum: no terms; expected at least one {name: term}")
        if reduction not in REDUCTIONS:
            raise ValueError(f"WeightedSum: reduction is {reduction!r}, expected one of {REDUCTIONS}")
        self.terms: dict[str, Term] = {str(name): term for name, term in terms.items()}
        self.reduction: Reduction = reduction
        self.curriculum = {str(name): schedule for name, schedule in (curriculum or {}).items()}
        unknown = self.curriculum.keys() - self.terms.keys()
        if unknown:
            raise ValueError(
                f"WeightedSum: curriculum names {sorted(unknown)}, terms are {list(self.terms)}. "
                "A term that is dropped takes its schedule along: ~loss.curriculum.<name>."
            )
        self.progress = 1.0  # fraction of training done; 1 (the final weights) wherever nobody sets it

    def weight(self, name: str) -> float:
        """Weight of a term at the present `progress`."""
        factor = self.curriculum[name](self.progress) if name in self.curriculum else 1.0
        return self.terms[name].weight * factor

    def forward(
        self,
        prediction: FactoredPrediction,
        targets: ViewTargets,
        teacher: FactoredPrediction | None = None,
    ) -> LossOutput:
        """Compare one batch; see `LossOutput`. ``teacher`` is for `DistillationTerm`."""
        with full_precision(prediction.distance.device.type):
            scene = Scene(
                _at_least_float32(prediction),
                targets,
                None if teacher is None else _at_least_float32(teacher),
            )
            total = scene.prediction.scale.new_zeros(())
            values: dict[str, Tensor] = {}
            statistics: dict[str, Tensor] = {}
            for name, term in self.terms.items():
                value = term(scene)
                mean, weight = value.reduced(self.reduction), self.weight(name)
                total = total + weight * mean
                values[name] = mean.detach()
                statistics |= {f"{name}/{k}": v.detach() for k, v in value.statistics.items()}
                if name in self.curriculum:
                    statistics[f"{name}/weight"] = total.new_full((), weight)
        return LossOutput(total=total, terms=values, statistics=statistics)

    def extra_repr(self) -> str:
        """One line per term for printed models."""
        return "\n".join(f"{name}: {type(t).__name__}, weight {t.weight}" for name, t in self.terms.items())


def _at_least_float32(record: R) -> R:
    half = (torch.float16, torch.bfloat16)
    values = {f.name: getattr(record, f.name) for f in fields(record)}
    return replace(
        record, **{k: v.float() for k, v in values.items() if isinstance(v, Tensor) and v.dtype in half}
    )
