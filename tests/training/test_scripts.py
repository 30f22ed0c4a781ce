"""Shell scripts: help, refusals. What needs a set-up environment is left to their use in CI."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from coop3d.conf import compose

BASH_SCRIPTS = Path(__file__).resolve().parents[2] / "bash_scripts"
SETUP = BASH_SCRIPTS / "setup_env.sh"
TRAIN = BASH_SCRIPTS / "train" / "opv2v_cyl_coop.sh"


def bash(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["bash", *map(str, arguments)], capture_output=True, text=True, timeout=60)


SCRIPTS = sorted(p for p in BASH_SCRIPTS.rglob("*") if p.suffix in (".sh", ".sbatch"))


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda p: p.name)
def test_syntax(path):
    assert bash("-n", path).stderr == ""


WITH_HELP = [p for p in SCRIPTS if "lib.sh" in p.read_text() and p.name not in ("lib.sh", "plan.sh")]


@pytest.mark.parametrize("path", WITH_HELP, ids=lambda p: p.name)
def test_help_is_the_comment_at_the_top_and_needs_no_environment(path):
    result = bash(path, "--help")
    assert (result.returncode, result.stderr) == (0, "")
    assert f"bash bash_scripts/{path.relative_to(BASH_SCRIPTS)}" in result.stdout
    assert "source" not in result.stdout


@pytest.fixture
def started(tmp_path):
    """What a script starts: python, sbatch and the set-up are replaced by ones that write their arguments down."""
    root, programs = tmp_path / "checkout", tmp_path / "bin"
    shutil.copytree(BASH_SCRIPTS, root / "bash_scripts")
    (root / "bash_scripts" / SETUP.name).write_text("")
    (root / "bash_scripts" / "train" / TRAIN.name).write_text('exec python TRAIN "$@"\n')
    programs.mkdir()
    for name in ("python", "sbatch"):
        (programs / name).write_text(f'#!/bin/sh\necho "$@" >>{tmp_path}/started\necho 7{name[0]}\n')
        (programs / name).chmod(0o755)
    for name in (
        "outputs/cpu_proof/evaluation",
        "outputs/gpu_proof/evaluation",
        "outputs/gpu_proof_small/evaluation",
        "outputs/quickstart/evaluation",
    ):
        (root / name).mkdir(parents=True)
        (root / name / "table.txt").touch()
    ours = {k: v for k, v in os.environ.items() if not k.startswith("COOP3D_")}

    def run(name: str, *arguments: str) -> list[str]:
        done = subprocess.run(
            ["bash", str(root / "bash_scripts" / name), *arguments], capture_output=True, text=True, timeout=60,
            env={**ours, "PATH": f"{programs}:{os.environ['PATH']}"},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return (tmp_path / "started").read_text().splitlines()

    return run


def test_scripts_build_the_caches_that_their_configs_read(started):
    towns, outskirts = "data/coop3d_synth_v1_small", "data/coop3d_synth_v1_outskirts_small"
    caches = [line for line in started("cpu_proof.sh", "a=1") if "build_panorama_cache" in line]
    assert len(caches) == 1
    made = f"{towns}_1200_panoramas"
    assert f"--split train validate test --output {made} --width 512 --height 128" in caches[0]
    lines = started("transfer.sh", "--jobs", "2")[-5:]
    assert f"coop3d-synth-v1-small --output {towns} --only test" in lines[0]
    assert f"--split test --output {towns}_panoramas " in lines[1]
    assert f"--split train validate test --output {outskirts}_panoramas " in lines[3]
    assert lines[4].endswith("output_dir=outputs/studies/transfer --jobs 2")


def test_ablations_build_what_the_studies_named_need(started):
    lines = started("ablations.sh", "supervision", "--", "--seeds", "0")
    outputs = [line.split("--output ")[1].split()[0] for line in lines if "build_panorama_cache" in line]
    small = "data/coop3d_synth_v1_small_panoramas_256x64"
    assert outputs == [f"{small}/rig", f"{small}/fused_lidar", f"{small}/own_lidar"]
    assert lines[-1].endswith("output_dir=outputs/studies/supervision --seeds 0")


def test_quickstart_and_proof_train_with_the_overrides_given(started):
    for name in ("quickstart.sh", "cpu_proof.sh"):
        (train,) = [line for line in started(name, "train_params.epochs=1") if line.startswith("TRAIN")][-1:]
        assert train.startswith("TRAIN 1 machine=")
        assert train.endswith(" train_params.epochs=1")


def test_the_proof_trains_on_many_towns(started):
    lines = started("cpu_proof.sh", "a=1")
    (train,) = [line for line in lines if line.startswith("TRAIN")]
    assert train.startswith("TRAIN 1 machine=synth_small_1200 ")
    assert lines[-1].endswith("frames_json=configs/contracts/coop3d-synth-v1-small-test-nearest.json")


def test_the_proof_on_gpus_takes_all_of_them_or_as_many_as_asked_for(started):
    lines = started("gpu_proof.sh", "a=1")
    assert any("coop3d-synth-v1 --output data/coop3d_synth_v1" in line for line in lines)
    (cache,) = [line for line in lines if "build_panorama_cache" in line]
    assert "--output data/coop3d_synth_v1_panoramas --width 1024 --height 256" in cache
    (train,) = [line for line in lines if line.startswith("TRAIN")]
    assert train.startswith("TRAIN machine=synth ")
    assert train.endswith("run.dir=outputs/gpu_proof/train a=1")
    assert lines[-1].endswith("frames_json=configs/contracts/coop3d-synth-v1-test-nearest.json")
    assert started("gpu_proof.sh", "10", "a=1")[-3].startswith("TRAIN 10 machine=synth ")


def test_the_small_proof_on_gpus_stitches_panoramas_of_its_own(started):
    lines = started("gpu_proof.sh", "--small", "2", "a=1")
    small = "data/coop3d_synth_v1_small_1200"
    assert any(f"coop3d-synth-v1-small-1200 --output {small} " in line for line in lines)
    (cache,) = [line for line in lines if "build_panorama_cache" in line]
    assert f"--output {small}_panoramas_1024x256 --width 1024 --height 256" in cache
    (train,) = [line for line in lines if line.startswith("TRAIN")]
    assert train.startswith(
        f"TRAIN 2 machine=synth_small_1200 machine.panorama_cache_root={small}_panoramas_1024x256 "
    )
    assert train.endswith("run.dir=outputs/gpu_proof_small/train a=1")
    assert lines[-1].endswith("frames_json=configs/contracts/coop3d-synth-v1-small-test-nearest.json")


def test_stages_are_submitted_each_after_the_one_before(started):
    first, second, third = started("slurm/stages.sh", "distributed=fsdp")
    sbatch, start = (
        "bash_scripts/slurm/train.sbatch",
        "model.model_config.pretrained_checkpoint_path=outputs/stages",
    )
    assert first == (
        f"--parsable {sbatch} dataset=opv2v_cyl_single loss=cyl_loss hydra.run.dir=outputs/stages/stage1 "
        "distributed=fsdp"
    )
    assert second.startswith(
        f"--parsable --dependency=afterok:7s {sbatch} dataset=opv2v_cyl_coop_ft dataset.train"
    )
    assert second.endswith(f"distributed=fsdp {start}/stage1/checkpoint-best.pth")
    assert third.endswith(
        f"hydra.run.dir=outputs/stages/stage3 distributed=fsdp {start}/stage2/checkpoint-best.pth"
    )


@pytest.mark.parametrize("number", ["0", "two", "-1", "1.5"])
def test_number_of_processes_is_checked(number):
    result = bash(TRAIN, number)
    assert result.returncode == 2
    assert f"NUM_GPUS is '{number}'" in result.stderr


@pytest.fixture
def stage(tmp_path):
    """What a stage would hand to the training script, which is replaced by one that prints its arguments."""
    scripts = tmp_path / "bash_scripts" / "train"
    scripts.mkdir(parents=True)
    for path in (*TRAIN.parent.glob("*.sh"), BASH_SCRIPTS / "lib.sh"):
        (tmp_path / path.relative_to(BASH_SCRIPTS.parent)).write_text(path.read_text())
    (scripts / TRAIN.name).write_text('printf "%s\\n" "$@"\n')
    environment = {**os.environ, "COOP3D_STAGES_ROOT": str(tmp_path / "stages")}

    def run(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = ["bash", str(scripts / name), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)

    return run


def test_every_stage_is_a_config_that_composes(stage, tmp_path):
    for number, name in enumerate(("single_vehicle", "coop_fixed", "coop_variable"), start=1):
        result = stage(f"stage{number}_{name}.sh", "2", "machine=demo", "train_params.epochs=1")
        assert result.returncode == 0, result.stderr
        processes, *overrides = result.stdout.split()
        assert processes == "2"
        assert overrides[-1] == "train_params.epochs=1"
        cfg = compose("train", overrides)
        vehicles = cfg.dataset.train.sampling.vehicles
        assert vehicles == {1: 1, 2: 2, 3: [2, 4]}[number]
        assert (cfg.model.model_config.name, cfg.dataset.camera.width) == ("tiny", 504)
        before = cfg.model.model_config.pretrained_checkpoint_path
        assert before == (None if number == 1 else f"{tmp_path}/stages/stage{number - 1}/checkpoint-best.pth")
        (tmp_path / "stages" / f"stage{number}").mkdir(parents=True)
        (tmp_path / "stages" / f"stage{number}" / "checkpoint-best.pth").touch()


def test_a_stage_without_the_one_before_says_so_and_overrides_win(stage):
    result = stage("stage.sh", "2")
    assert result.returncode == 2
    assert "run stage 1 first, or pass model.model_config.pretrained_checkpoint_path=" in result.stderr
    result = stage(
        "stage.sh", "2", "model.model_config.pretrained_checkpoint_path=/w.pth", "loss=overall_loss"
    )
    words = result.stdout.split()
    assert [w for w in words if w.startswith("loss=")] == ["loss=overall_loss"]
    assert "model=mapanything" in words
    assert stage("stage.sh", "4").returncode == 2


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a torch that cannot use the GPUs")
@pytest.mark.parametrize(
    ("driver", "spec", "status"), [(True, "", 1), (True, "torch==2.13.0+cpu", 0), (False, "", 0)]
)
def test_setup_refuses_a_torch_that_cannot_use_the_gpus(tmp_path, driver, spec, status):
    """A build for a newer driver, or for no GPU: ten processes would train on the CPU."""
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\n" if driver else "#!/bin/sh\nexit 9\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    functions = re.search(r"^_coop3d_suits_gpus.*?^}$", SETUP.read_text(), re.MULTILINE | re.DOTALL)
    assert functions is not None
    done = subprocess.run(
        ["bash", "-c", f'{functions[0]}\n_coop3d_suits_gpus "{sys.executable}"'],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "COOP3D_TORCH_SPEC": spec},
    )
    assert done.returncode == status
    assert ("COOP3D_TORCH_INDEX_URL" in done.stderr) == (status == 1)


@pytest.mark.parametrize("name", ["setup_env.sh", "test.sh"])
@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_of_setup_and_test_does_nothing_else(tmp_path, name, flag):
    for script in (SETUP, SETUP.with_name("test.sh"), SETUP.with_name("lib.sh")):
        copy = tmp_path / "bash_scripts" / script.name
        copy.parent.mkdir(exist_ok=True)
        copy.write_text(script.read_text())
    done = bash(tmp_path / "bash_scripts" / name, flag)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Set up")
    assert f"{name} --help" in done.stdout
    assert [p.name for p in tmp_path.iterdir()] == ["bash_scripts"]


@pytest.fixture
def checkouts(tmp_path) -> tuple[Path, Path]:
    """Two checkouts; the first has an environment with itself installed, as pip records it."""
    first, second = tmp_path / "first one", tmp_path / "second"
    for root in (first, second):
        (root / "bash_scripts").mkdir(parents=True)
        (root / "bash_scripts" / SETUP.name).write_text(SETUP.read_text())
    record = first / ".venv" / "lib" / "python3.11" / "site-packages" / "coop3d-0.1.dist-info"
    record.mkdir(parents=True)
    (record / "direct_url.json").write_text(
        json.dumps({"url": first.as_uri(), "dir_info": {"editable": True}})
    )
    (first / ".venv" / "bin").mkdir()
    (first / ".venv" / "bin" / "python").symlink_to(sys.executable)
    return first, second


def is_ours(root: Path) -> subprocess.CompletedProcess[str]:
    """Whether setup would install into the checkout's ``.venv``."""
    functions = SETUP.read_text().partition("# Sourced, the arguments")[0]
    command = f'{functions}\n_coop3d_is_ours "$1" "$1/.venv"'
    return subprocess.run(
        ["bash", "-c", command, "bash", str(root)], capture_output=True, text=True, timeout=60
    )


def test_setup_leaves_the_environment_of_another_checkout_alone(checkouts):
    first, second = checkouts
    assert is_ours(first).returncode == is_ours(second).returncode == 0
    (second / ".venv").symlink_to(first / ".venv")
    done = bash(second / "bash_scripts" / SETUP.name)
    assert done.returncode == 1
    assert f"{second}/.venv leads to {first}/.venv, outside this checkout" in done.stderr
    assert f"rm '{second}/.venv'" in done.stderr
    (second / ".venv").unlink()
    shutil.copytree(first / ".venv", second / ".venv", symlinks=True)
    done = is_ours(second)
    assert done.returncode == 1
    assert f"runs the coop3d of {first}, another checkout; expected this one, {second}" in done.stderr
    shutil.rmtree(first)  # moved: the environment moved with it
    assert is_ours(second).returncode == 0
