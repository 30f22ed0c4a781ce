"""Configs as the command line composes them, with messages that name the closest key."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from coop3d.conf.errors import ConfigError, suggest

CONFIG_DIR = Path(__file__).resolve().parents[2] / "configs"


def hydra_main(
    config_name: str, flags: Sequence[str] = ()
) -> Callable[[Callable[[DictConfig], None]], Callable[[], None]]:
    """Like ``hydra.main``, with messages that name the closest key when an override is wrong.

    Args:
        config_name: file under ``configs/``.
        flags: keys that may also be given as ``--like-this VALUE``.
    """

    def decorate(task: Callable[[DictConfig], None]) -> Callable[[], None]:
        def main() -> None:
            sys.argv[1:] = overrides = [_quoted_override(a) for a in _without_flags(sys.argv[1:], flags)]
            if not any(o.startswith("-") for o in overrides):  # Hydra's own flags: let Hydra answer
                try:
                    _require_folder(compose(config_name, overrides, with_hydra=True).hydra.run.dir)
                except ConfigError as error:
                    sys.exit(f"Config error: {error}")
            hydra.main(version_base="1.3", config_path=str(CONFIG_DIR), config_name=config_name)(task)()

        return main

    return decorate


def _without_flags(arguments: Sequence[str], flags: Sequence[str]) -> list[str]:
    """``--like-this VALUE`` and ``--like-this=VALUE`` as ``like_this=VALUE``."""
    spelled = {f"--{key.replace('_', '-')}": key for key in flags}
    found, rest = list[str](), list(arguments)
    while rest:
        flag, equals, value = rest.pop(0).partition("=")
        if flag in spelled and not equals:
            if not rest:
                sys.exit(f"Config error: {flag} needs a value, as {spelled[flag]}=VALUE does.")
            equals, value = "=", rest.pop(0)
        found.append(f"{spelled.get(flag, flag)}{equals}{value}")
    return found


def in_quotes(value: object) -> str:
    """A value in Hydra's grammar, whatever characters it has."""
    return "'" + str(value).replace("'", r"\'") + "'"


def _quoted_override(argument: str) -> str:
    """An override with the quotes that Hydra's grammar wants and nobody would type.

    They go around list items that hold a '=' (``overrides=[a.b=c,d=e]``), and around a value with letters beyond ASCII,
    or a path with one of ``=~#()``. What has quotes, or is a list, a mapping or an interpolation, stays as it is.
    """
    match = re.fullmatch(r"overrides=\[([^'\"]+)\]", argument)
    if match:
        items = re.split(r",(?=[\w.]+=)", match[1])
        return f"overrides=[{','.join(repr(item) for item in items)}]"
    key, _, value = argument.partition("=")
    if value.startswith("~/"):  # the shell leaves it as it is behind key=
        value = os.path.expanduser(value)
        argument = f"{key}={value}"
    is_path = "/" in value and re.search(r"[=~#()]", value) is not None
    if (
        value[:1] in ("'", '"', "[", "{")
        or "${" in value
        or "," in value
        or (value.isascii() and not is_path)
    ):
        return argument
    return f"{key}={in_quotes(value)}"


def compose(config_name: str, overrides: Sequence[str] = (), *, with_hydra: bool = False) -> DictConfig:
    """Compose a config as the command line would.

    Args:
        config_name: file under ``configs/``.
        overrides: ``key=value``.
        with_hydra: keep Hydra's own section.

    Raises:
        ConfigError: with the offending key and the closest existing one.
    """
    try:
        return _compose(config_name, [_quoted_override(o) for o in overrides], with_hydra)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(_explain(config_name, overrides, error)) from error


def _require_folder(run_dir: str) -> None:
    """Hydra makes the run directory before the task begins, and answers what prevents it with a traceback.

    Raises:
        ConfigError: it cannot be made.
    """
    path = Path(run_dir).absolute()
    there = next(p for p in (path, *path.parents) if p.exists())
    if not there.is_dir():
        reason = f"{there} is a file"
    elif there != path and not os.access(there, os.W_OK | os.X_OK):
        reason = f"no permission to write in {there}"
    else:
        return
    raise ConfigError(f"cannot write {run_dir} ({reason}); choose another hydra.run.dir.")


def _compose(config_name: str, overrides: Sequence[str], with_hydra: bool = False) -> DictConfig:
    with _outside_hydra(), hydra.initialize_config_dir(version_base="1.3", config_dir=str(CONFIG_DIR)):
        return hydra.compose(config_name, overrides=list(overrides), return_hydra_config=with_hydra)


@contextmanager
def _outside_hydra() -> Iterator[None]:
    """Lay aside the Hydra whose task is running, if there is one: it allows no other beside it."""
    running = GlobalHydra.instance().hydra
    GlobalHydra.instance().hydra = None
    try:
        yield
    finally:
        GlobalHydra.instance().hydra = running  # the instance is a copy by now


def _explain(config_name: str, overrides: Sequence[str], error: Exception) -> str:
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error
    message = " ".join(str(error).split())
    if str(cause) not in str(error):
        message = f"{message}: {' '.join(str(cause).split())}"
    full_key = getattr(cause, "full_key", None)
    if full_key:
        keys = _sibling_keys(config_name, overrides, full_key)
        if full_key.rpartition(".")[2] not in keys:
            return f"There is no config key '{full_key}'. {suggest(full_key, keys)}"
    return re.sub(r" (reference_type|object_type)=\S+", "", message)  # the key exists: its value is wrong


def _sibling_keys(config_name: str, overrides: Sequence[str], full_key: str) -> list[str]:
    """Keys beside ``full_key`` in the config composed without the overrides that name it."""
    rest = [o for o in overrides if not o.lstrip("+~").split("=")[0].startswith(full_key)]
    try:
        node: Any = _compose(config_name, rest)
    except (HydraException, OmegaConfBaseException):
        return []
    parent = full_key.rpartition(".")[0]
    node = OmegaConf.select(node, parent) if parent else node
    return [str(k) for k in node] if isinstance(node, DictConfig) else []
