"""Run a study: arms (sets of overrides) with equal training, several seeds each; a table with paired differences."""

from __future__ import annotations

import argparse
import logging
import shlex
import sys
from dataclasses import replace
from pathlib import Path

from coop3d.benchmark import ResultError
from coop3d.benchmark.study import (
    Run,
    Stopped,
    Study,
    StudyError,
    StudyRunner,
    collect,
    evaluate_command,
    plan_runs,
    prepare,
    read_study,
    train_command,
    write_study,
)
from coop3d.benchmark.study.state import RunState
from coop3d.datasets.options import positive_int
from coop3d.evaluation.contracts import ContractError

EXAMPLES = """examples:
  # what would be started, and whether every arm composes
  python scripts/run_study.py study=configs/studies/training.yaml output_dir=outputs/studies/training --dry-run

  # run it; killed and started again it goes on where it stopped, what is finished is not repeated
  python scripts/run_study.py study=configs/studies/training.yaml output_dir=outputs/studies/training

  # two arms only, two runs at once, overrides for every arm after the study's base
  python scripts/run_study.py study=configs/studies/training.yaml output_dir=outputs/studies/training \\
      --only base,no_wrap --jobs 2 model=small

  # eight GPUs: four runs at once, two GPUs each
  python scripts/run_study.py study=configs/studies/panoramas.yaml output_dir=outputs/studies/panoramas \\
      --jobs 4 --processes 2 machine=local3090 model=mapanything dataset=opv2v_cyl_coop_ft

Writes study.json, study.csv, table.txt, table.md, study.html and pictures to output_dir, and every run to
output_dir/runs/ARM/seedK (train.log, evaluate.log, run.json). The exit status is 1 if some run failed.
"""


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("settings", nargs="+", metavar="KEY=VALUE",
        help="study=FILE and output_dir=FOLDER; all else is an override for the training of every arm")  # fmt: skip
    add("--only", metavar="ARM,...", help="run only these arms; the tables show every finished arm")
    add("--seeds", type=seed_list, metavar="N,...",
        help="run only these seeds, e.g. the first of every study before the second of any")  # fmt: skip
    add("--dry-run", action="store_true", help="print the commands and start nothing")
    add(
        "--jobs",
        type=positive_int,
        default=1,
        metavar="N",
        help="runs at the same time (default: %(default)s)",
    )
    add("--processes", type=positive_int, default=1, metavar="N",
        help="processes of each run, one per GPU where there are GPUs (default: %(default)s)")  # fmt: skip
    args = parser.parse_intermixed_args()
    args.overrides = []
    args.study = args.output_dir = None
    for setting in args.settings:
        key, equals, value = setting.partition("=")
        if key in ("study", "output_dir") and equals:
            setattr(args, key, Path(value))
        else:
            args.overrides.append(setting)
    for key in ("study", "output_dir"):
        if getattr(args, key) is None:
            parser.error(f"{key}=... is missing; see --help")
    return args


def seed_list(text: str) -> list[int]:
    if not all(part.strip().isdigit() for part in text.split(",")):
        raise argparse.ArgumentTypeError(f"found {text!r}, expected whole numbers with commas between")
    return [int(part) for part in text.split(",")]


def chosen_seeds(study: Study, only: list[int] | None) -> list[int]:
    unknown = sorted(set(only or ()) - set(study.seeds))
    if unknown:
        have = ", ".join(map(str, study.seeds))
        raise StudyError(f"--seeds: no seed {', '.join(map(str, unknown))}; the study has {have}.")
    return list(study.seeds) if only is None else only


def chosen_arms(study: Study, only: str | None) -> list[str]:
    names = list(study.arms) if only is None else [name.strip() for name in only.split(",")]
    unknown = [name for name in names if name not in study.arms]
    if unknown:
        raise StudyError(f"--only: no arm {', '.join(unknown)}; the study has {', '.join(study.arms)}.")
    return names


def print_commands(study: Study, runs: list[Run], processes: int) -> None:
    for run in runs:
        print(f"# {run.name}: {run.steps} steps of {run.global_batch} samples")
        print(shlex.join(train_command(run, processes)))
        for name, contract in study.evaluation.sets().items():
            print(shlex.join(evaluate_command(run, study, name, contract, processes)))


def main() -> None:
    args = parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        study = read_study(args.study, args.overrides)
        names, seeds = chosen_arms(study, args.only), chosen_seeds(study, args.seeds)
        runs = plan_runs(study, args.output_dir)
        now = [run for run in runs if run.arm in names and run.seed in seeds]
        if args.dry_run:
            print_commands(study, now, args.processes)
            return
        runner = StudyRunner(study, args.output_dir, args.jobs, args.processes)
        prepare(replace(study, arms={name: study.arms[name] for name in names}))
        runner(now)
        result = collect(study, args.output_dir, [RunState.read(run) for run in runs])
        text, page = write_study(result)
    except (StudyError, ContractError, ResultError, Stopped, ValueError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
    print(f"\n{text}\nWritten to {args.output_dir}/; open {page}")
    if result.failures:
        sys.exit(
            f"{len(result.failures)} part(s) of runs failed, see above; the same command tries them again."
        )


if __name__ == "__main__":
    main()
