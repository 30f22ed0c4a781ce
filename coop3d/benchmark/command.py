"""What the commands that evaluate have in common: options from a config, errors in a line, one process that speaks."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from coop3d.benchmark.options import OptionsT, options_of
from coop3d.conf import require_complete
from coop3d.training.launch import EXPECTED_ERRORS


def run_evaluation(
    cfg: DictConfig,
    kind: type[OptionsT],
    evaluate: Callable[[Any, str, OptionsT, list[str]], Any],
    write_page: Callable[[Any], Path],
) -> None:
    """Evaluate as ``cfg`` says; print the table and where the page is.

    Args:
        cfg: composed; an error in it ends the process with a message.
        kind: of the options in it.
        evaluate: (checkpoint, folder, options, overrides) to something with ``table`` and ``folder``.
        write_page: makes the page of that, by option.
    """
    is_main = os.environ.get("RANK", "0") == "0"
    level = logging.INFO if is_main else logging.WARNING
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        require_complete(cfg)
        options, given = options_of(cfg, kind), OmegaConf.to_container(cfg)
        found = evaluate(given["checkpoint"], cfg.output_dir, options, list(cfg.overrides))  # type: ignore[index, call-overload]
        page = write_page(found) if options.report and is_main else None
    except (*EXPECTED_ERRORS, OSError, ValueError) as error:
        logging.getLogger(__name__).debug("where it happened", exc_info=True)
        sys.exit(f"{type(error).__name__}: {error}")
    if is_main:
        print(f"\n{found.table}\nWritten to {found.folder}/" + (f"; open {page}" if page else ""))
