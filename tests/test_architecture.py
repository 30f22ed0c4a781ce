"""The walls between rooms: every import of every file against the table in the style guide."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest
import yaml

PACKAGE = Path(__file__).resolve().parents[1] / "coop3d"

LOW = {"files", "geometry", "types"}
MAY_IMPORT = {
    "__init__": set(),
    "conf": set(),
    "environment": set(),
    "files": set(),
    "geometry": set(),
    "progress": set(),
    "types": {"geometry"},
    "stitching": LOW,
    "datasets": LOW | {"stitching"},
    "models": LOW,
    "losses": LOW,
    "evaluation": LOW,
    "visualization": LOW,
    "training": LOW
    | {"conf", "environment", "progress", "stitching", "datasets", "models", "losses", "evaluation", "visualization"},
    "benchmark": LOW
    | {"conf", "environment", "progress", "datasets", "evaluation", "visualization", "training"},
}  # fmt: skip
FILES = sorted(PACKAGE.rglob("*.py"))


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def project_imports(source: str, package: tuple[str, ...]) -> list[tuple[int, str]]:
    """(line, room) of every import of the project in a file that lies in ``package``."""
    found: list[tuple[int, str]] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(part for part in (base, node.module) if part)
            names = [f"{module}.{alias.name}" for alias in node.names] if module == "coop3d" else [module]
        else:
            continue
        found += [(node.lineno, name.split(".")[1]) for name in names if name.startswith("coop3d.")]
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_no_import_crosses_a_wall(path):
    room = room_of(path)
    assert room in MAY_IMPORT, f"{path}: room {room!r} is not in the table; add it with what it may import"
    package = ("coop3d", *path.relative_to(PACKAGE).parts[:-1])
    crossed = [
        f"{path}:{line}: {room} may not import {other}"
        for line, other in project_imports(path.read_text(encoding="utf-8"), package)
        if other != room and other not in MAY_IMPORT[room]
    ]
    assert not crossed, "\n".join(crossed)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_rooms_stay_surveyable(path):
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= 500, f"{path} has {lines} lines: which two rooms does it mix?"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_nothing_evaluates_text_or_unpickles_blindly(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        where = f"{path}:{node.lineno}: {name}"
        arguments = {k.arg: ast.unparse(k.value) for k in node.keywords}
        assert name not in ("eval", "exec", "yaml.unsafe_load", "pickle.load", "pickle.loads"), where
        if name == "torch.load":
            assert arguments.get("weights_only") == "True", f"{where} without weights_only=True"
        if name == "yaml.load":
            module = importlib.import_module(
                ".".join(("coop3d", *path.relative_to(PACKAGE).with_suffix("").parts))
            )
            loader = getattr(module, arguments["Loader"])
            assert issubclass(loader, (yaml.SafeLoader, yaml.CSafeLoader)), f"{where} with {loader}"


def test_the_check_sees_every_way_to_import():
    source = (
        "import coop3d.losses.pose\n"
        "from coop3d.models import build_model\n"
        "from coop3d import evaluation\n"
        "from ..stitching import table\n"
        "from . import sibling\n"
        "def f():\n    from coop3d.training import run\n"
    )
    rooms = [room for _, room in project_imports(source, ("coop3d", "datasets"))]
    assert sorted(rooms) == ["datasets", "evaluation", "losses", "models", "stitching", "training"]
