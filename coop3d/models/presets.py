"""What a fine-tuning run trains: presets chosen by ``preset=`` on the command line (``configs/preset``)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import nn

from coop3d.models.lora import LoraOptions, add_lora, is_adapter, strip_adapter
from coop3d.models.published import ADDITIONS


@dataclass(frozen=True, kw_only=True)
class Preset:
    """Which parameters train, by patterns of their names in which ``*`` is any text.

    A parameter trains if it matches ``train`` and not ``freeze``, or belongs to an adapter. Encoders that no input
    reaches stay frozen whatever the patterns say.
    """

    name: str
    train: tuple[str, ...] = ("*",)
    freeze: tuple[str, ...] = ()
    lora: LoraOptions | None = None

    def __post_init__(self) -> None:
        for field in ("train", "freeze"):
            object.__setattr__(self, field, tuple(getattr(self, field)))

    def apply(self, model: nn.Module) -> None:
        """Set ``requires_grad`` of every parameter; adds adapters where the preset has them.

        Raises:
            ValueError: if a pattern matches no parameter, or nothing is left to train.
        """
        reachable = {name for name, p in model.named_parameters() if p.requires_grad}
        self._check_patterns([name for name, _ in model.named_parameters()])
        if self.lora is not None:
            add_lora(model, self.lora)
        for name, parameter in model.named_parameters():
            plain = strip_adapter(name)
            chosen = _matches(plain, self.train) and not _matches(plain, self.freeze)
            parameter.requires_grad_(is_adapter(name) or (plain in reachable and chosen))
        if not any(p.requires_grad for p in model.parameters()):
            raise ValueError(f"preset {self.name} trains no parameter: preset.train={list(self.train)}")

    def _check_patterns(self, names: list[str]) -> None:
        for field in ("train", "freeze"):
            for pattern in getattr(self, field):
                if pattern.startswith(ADDITIONS):  # only some configurations have these
                    continue
                if any(fnmatchcase(name, pattern) for name in names):
                    continue
                top = ", ".join(sorted({name.split(".")[0] for name in names}))
                raise ValueError(f"preset.{field}: {pattern!r} matches no parameter; sub-modules are {top}")


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


@dataclass(frozen=True, kw_only=True)
class ParameterCount:
    """Parameters of one sub-module; a model's biggest sub-modules are its first-level ones."""

    name: str
    total: int
    trainable: int


def count_parameters(model: nn.Module) -> tuple[ParameterCount, ...]:
    """Counts by first-level sub-module, in the model's order."""
    return tuple(_counts(model))


def _counts(model: nn.Module) -> Iterator[ParameterCount]:
    by_name: dict[str, list[tuple[int, bool]]] = {}
    for name, p in model.named_parameters():
        by_name.setdefault(name.split(".")[0], []).append((p.numel(), p.requires_grad))
    for name, parts in by_name.items():
        yield ParameterCount(
            name=name, total=sum(n for n, _ in parts), trainable=sum(n for n, trains in parts if trains)
        )


def count_all(model: nn.Module) -> ParameterCount:
    """All parameters, under the name ``sum``."""
    counts = count_parameters(model)
    return ParameterCount(
        name="sum", total=sum(c.total for c in counts), trainable=sum(c.trainable for c in counts)
    )


def parameter_table(model: nn.Module) -> str:
    """Trainable and total parameters by sub-module, and their sum, as lines of text."""
    counts, whole = count_parameters(model), count_all(model)
    lines = [f"{'sub-module':<22}{'trainable':>15}{'parameters':>15}"]
    lines += [f"{c.name:<22}{c.trainable:>15,}{c.total:>15,}" for c in (*counts, whole)]
    return "\n".join([*lines, f"{whole.trainable / max(1, whole.total):.3%} of the parameters train"])
