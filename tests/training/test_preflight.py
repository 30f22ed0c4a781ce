"""Busy GPUs and small hosts, simulated: what is said, when a run waits, when it is refused."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch

from coop3d.conf import PreflightConf, compose
from coop3d.training import launch
from coop3d.training.distributed import PeerError, Processes
from coop3d.training.gpu_probe import GpuProcess, GpuState, cgroup_left, host_memory_bytes, parse_state
from coop3d.training.launch import preflight
from coop3d.training.memory_need import GIB, MemoryNeed, alternatives, gpu_need, host_need
from coop3d.training.out_of_memory import CHECKPOINTED
from coop3d.training.preflight import PreflightError, Probes, Suggestion, check_gpus, check_host

ME = Processes(rank=0, world_size=1, device=torch.device("cpu"))
NEED = MemoryNeed({"weights": 4 * GIB, "activations": 12 * GIB})
OTHER = GpuProcess(4242, 12 * GIB, "alice", "python other.py")
TEAM = (
    "machine=local3090",
    "model=mapanything_v1_1",
    "dataset=opv2v_cyl_coop_ft",
    "train_params=opv2v_cyl_coop",
)


def card(free_gib: float, *processes: GpuProcess) -> GpuState:
    return GpuState(3, "NVIDIA GeForce RTX 3090", 24 * GIB, round(free_gib * GIB), processes)


class Machine:
    """A card that is busy for so many looks."""

    def __init__(self, busy_for: int) -> None:
        self.busy_for, self.looks, self.slept = busy_for, 0, 0.0

    def gpu(self, index: int) -> GpuState:
        self.looks += 1
        return card(11.5, OTHER) if self.looks <= self.busy_for else card(23.5)

    def sleep(self, seconds: float) -> None:
        self.slept += seconds

    def probes(self) -> Probes:
        return Probes(gpu=self.gpu, sleep=self.sleep)


def check(machine: Machine, suggestions: tuple[Suggestion, ...] = (), **changes) -> None:
    check_gpus(PreflightConf(**changes), NEED, lambda: suggestions, ME, machine.probes())


def test_a_free_card_is_described_and_taken(caplog):
    caplog.set_level("INFO")
    machine = Machine(0)
    check(machine)
    assert machine.looks == 1
    assert "Estimated need per GPU: 16.0 GiB (weights 4.0, activations 12.0)" in caplog.text
    assert "GPU 3 (NVIDIA GeForce RTX 3090): 23.5 GiB of 24.0 GiB free, enough." in caplog.text


def test_a_busy_card_is_refused_with_who_holds_it_and_what_helps():
    suggestions = (Suggestion("distributed=fsdp", 9 * GIB), Suggestion("preset=heads", 14 * GIB))
    with pytest.raises(PreflightError) as caught:
        check(Machine(1), suggestions)
    message = str(caught.value)
    assert "1 of 1 GPUs have no room for this run, which needs about 16.0 GiB" in message
    assert "11.5 GiB of 24.0 GiB free, 4.5 GiB too little" in message
    assert "pid 4242 (alice, 12.0 GiB): python other.py" in message
    assert "distributed=fsdp: about 9.0 GiB per GPU, fits." in message
    assert "preset=heads: about 14.0 GiB per GPU, still 2.5 GiB too much." in message
    assert "preflight.wait_for_free=120" in message


def test_waiting_ends_when_the_card_is_free(caplog):
    machine = Machine(busy_for=3)
    check(machine, wait_for_free=10.0, poll_seconds=60.0)
    assert (machine.looks, machine.slept) == (4, 180.0)
    assert "Waiting for 1 of 1 GPUs (2 of at most 10 minutes). GPU 3" in caplog.text


def test_waiting_has_an_end():
    machine = Machine(busy_for=1000)
    with pytest.raises(PreflightError, match=r"waited 10 minutes"):
        check(machine, wait_for_free=10.0, poll_seconds=60.0)
    assert machine.slept == 600.0


def test_a_full_host_is_refused_with_the_settings_to_lower():
    need = MemoryNeed({"batches in flight": 6 * GIB, "loader processes": 4 * GIB})
    check_host(need, Probes(host=lambda: 11 * GIB))
    check_host(need, Probes(host=lambda: None))
    with pytest.raises(PreflightError, match=r"9\.0 GiB available, .*10\.0 GiB .*machine\.num_workers"):
        check_host(need, Probes(host=lambda: 9 * GIB))


def test_output_of_nvidia_smi_is_understood():
    gpus = [["GPU-aa", "NVIDIA A", "24576", "24000"], ["GPU-bb", "NVIDIA B", "24576", "512"]]
    processes = [
        ["GPU-bb", "1", "[N/A]", "init"],
        ["GPU-aa", "2", "100", "x"],
        ["GPU-bb", "999999999", "7", "a, b"],
    ]
    state = parse_state(0, "bb", gpus, processes)  # CUDA_VISIBLE_DEVICES=1: torch's first card is B
    assert state is not None
    assert (state.index, state.name, state.free_bytes) == (0, "NVIDIA B", 512 * 2**20)
    assert [p.pid for p in state.processes] == [1, 999999999]
    assert state.processes[0].used_bytes is None
    assert str(state.processes[1]) == "pid 999999999 (unknown user, 0.0 GiB): a, b"
    assert parse_state(0, "cc", gpus, processes) is None


GIB = 2**30


def test_a_job_may_take_what_its_control_groups_leave(tmp_path):
    """The tightest group above the process counts, and cached files are not in anybody's way."""
    own, job = tmp_path / "own", tmp_path / "cgroup" / "system" / "job_7"
    own.write_text("0::/system/job_7/step_0\n")
    assert cgroup_left(own, tmp_path / "cgroup") is None
    (job / "step_0").mkdir(parents=True)
    for group, limit, used, cached in (
        (job / "step_0", "max", 5 * GIB, 0),
        (job, str(128 * GIB), 124 * GIB, 118 * GIB),
        (job.parent, str(200 * GIB), 130 * GIB, 0),
    ):
        (group / "memory.max").write_text(f"{limit}\n")
        (group / "memory.current").write_text(f"{used}\n")
        (group / "memory.stat").write_text(f"anon 1\ninactive_file {cached - GIB}\nactive_file {GIB}\n")
    assert cgroup_left(own, tmp_path / "cgroup") == (200 - 130) * GIB
    (job.parent / "memory.max").write_text("max\n")
    assert cgroup_left(own, tmp_path / "cgroup") == (128 - 124 + 118) * GIB


def test_control_groups_of_the_first_version_are_understood(tmp_path):
    own, job = tmp_path / "own", tmp_path / "cgroup" / "memory" / "slurm" / "job_7"
    own.write_text("9:cpuset:/\n4:cpu,memory:/slurm/job_7\n1:name=systemd:/x\n")
    job.mkdir(parents=True)
    (job / "memory.limit_in_bytes").write_text(f"{10 * GIB}\n")
    (job / "memory.usage_in_bytes").write_text(f"{4 * GIB}\n")
    (job / "memory.stat").write_text(f"total_inactive_file {GIB}\ntotal_active_file {GIB}\n")
    assert cgroup_left(own, tmp_path / "cgroup") == (10 - 4 + 2) * GIB


def test_host_memory_is_known_here():
    available = host_memory_bytes()
    assert available is not None
    assert available > 2**20


@pytest.fixture(scope="module")
def ten() -> Processes:
    return replace(ME, world_size=10)


def test_need_of_the_teams_config(ten, quick_forecast):
    """DESIGN: 1.2 G parameters replicated under AdamW need about 19 GB before the first activation."""
    replicated = gpu_need(compose("train", TEAM), ten)
    assert replicated is not None
    state = sum(replicated.parts[k] for k in ("weights", "gradients", "optimiser"))
    assert state == pytest.approx(19e9, rel=0.05)
    sharded = gpu_need(compose("train", [*TEAM, "distributed=fsdp", "train_params.ema_decay=0.999"]), ten)
    assert sharded is not None
    assert sum(sharded.parts[k] for k in ("weights", "gradients", "optimiser")) == pytest.approx(
        state / 10, rel=0.01
    )
    assert sharded.parts["moving average"] == pytest.approx(replicated.parts["gradients"] / 10, rel=0.01)
    assert sharded.parts["activations"] == replicated.parts["activations"]


def test_muon_keeps_half_of_what_adamw_keeps(ten, quick_forecast):
    """Nearly all of the 1.2 G parameters are in matrices."""
    adamw, muon = (compose("train", [*TEAM, f"train_params.optimizer={name}"]) for name in ("adamw", "muon"))
    weights = gpu_need(adamw, ten).parts["weights"]
    saved = {
        "GPU": gpu_need(adamw, ten).total - gpu_need(muon, ten).total,
        "host": host_need(adamw, ten, 10).total - host_need(muon, ten, 10).total,
    }
    assert saved == {"GPU": pytest.approx(weights, rel=0.02), "host": pytest.approx(weights, rel=0.02)}


@pytest.mark.slow
def test_the_default_training_fits_ten_cards_of_24_gb(ten):
    on_gpus = replace(ten, device=torch.device("cuda"))
    need = gpu_need(compose("train", ["train_params.precision=bf16"]), on_gpus)
    assert need is not None
    assert need.total < 22 * GIB  # of 24, what the driver and the screen leave


def test_need_can_be_named_and_unknown_models_have_none(ten):
    cfg = compose("train", [*TEAM, "preflight.need_gib=7.5"])
    need = gpu_need(cfg, ten)
    assert need is not None
    assert need.total == 7.5 * GIB
    cfg = compose("train", TEAM)
    cfg.model._target_ = "somewhere.else"
    assert gpu_need(cfg, ten) is None


def test_alternatives_lower_the_need_and_name_overrides(monkeypatch):
    monkeypatch.setattr("coop3d.training.memory_need.gpu_need", lambda cfg, me: MemoryNeed({"x": 1}))
    plain = [f"{key}=false" for key in CHECKPOINTED]
    team = [*TEAM, *plain, "loss=cyl_loss", "train_params.max_micro_batch=2"]
    names = [text for text, _ in alternatives(compose("train", team), replace(ME, world_size=10))]
    assert names[0] == "train_params.max_micro_batch=1"
    weighs = [
        *team,
        "loss=overall_loss",
    ]  # samples of a micro-batch by their valid pixels: it is not harmless there
    others = [text for text, _ in alternatives(compose("train", weighs), replace(ME, world_size=10))]
    assert not any("max_micro_batch" in text for text in others)
    assert "distributed=fsdp" in names
    assert "dataset.train.sampling.vehicles=2" in names
    assert "preset=freeze_encoder" in names
    together = next(n for n in names if n.startswith("train_params") and n.endswith("distributed=fsdp"))
    assert together.count("gradient_checkpointing=true") == 3
    for name in names:
        compose("train", [*team, *name.split()])  # each can be typed as it stands


def test_host_need_counts_loaders_models_and_the_saved_state():
    cfg = compose("train", [*TEAM, "machine.num_workers=3", "machine.prefetch_batches=2"])
    need = host_need(cfg, replace(ME, world_size=10), processes_here=10)
    assert need is not None
    pixels = 4 * 252 * 1008  # the largest sample: four panoramas
    assert need.parts["batches in flight"] == 10 * 13 * pixels * 45  # loaders of training and of validation
    assert need.parts["loader processes"] == 10 * 6 * 300 * 2**20
    assert need.parts["building the model"] == pytest.approx(10 * 4.8e9, rel=0.05)  # 1.2 G float32, ten times
    assert need.parts["saving"] == pytest.approx(3 * 4.8e9, rel=0.05)  # weights and two moments, once
    averaged = host_need(
        compose("train", [*TEAM, "train_params.ema_decay=0.999"]),
        replace(ME, world_size=10),
        processes_here=10,
    )
    assert averaged is not None
    assert averaged.parts["saving"] == pytest.approx(5 * 4.8e9, rel=0.05)


def test_preflight_looks_at_the_host_without_gpus_and_can_be_switched_off(monkeypatch):
    monkeypatch.setattr(launch, "host_need", lambda *_: MemoryNeed({"x": 2**60}))
    with pytest.raises(PreflightError, match="Host memory"):
        preflight(compose("train", TEAM), ME)
    preflight(compose("train", [*TEAM, "preflight.enabled=false"]), ME)


def test_all_cards_half_full_is_refused_before_anything_is_built(monkeypatch):
    """The whole way from a config: as on the day when every run died in its first backward pass."""
    monkeypatch.setattr("coop3d.training.network.make_autocast", lambda *_: nullcontext)  # needs no GPU
    me = replace(ME, device=torch.device("cuda", 0))
    cfg = compose("train", [*TEAM, "train_params.global_batch=40"])
    probes = Probes(gpu=lambda _: card(11.5, OTHER), host=lambda: None)
    small = MemoryNeed({"x": 8 * GIB})
    monkeypatch.setattr(launch, "alternatives", lambda *_: [("preset=heads", small)])
    with pytest.raises(PreflightError, match=r"(?s)11\.5 GiB of 24\.0 GiB free.*alice.*preset=heads: .*fits"):
        preflight(cfg, me, probes)
    named = compose("train", [*TEAM, "preflight.need_gib=11"])
    preflight(named, me, probes)


def test_a_forecast_that_fails_does_not_stop_the_run_it_is_about(monkeypatch, caplog):
    def broken(*_):
        raise RuntimeError("another torch")

    monkeypatch.setattr(launch, "gpu_need", broken)
    monkeypatch.setattr(launch, "host_need", lambda *_: None)
    preflight(compose("train", TEAM), replace(ME, device=torch.device("cuda", 0)))
    assert "forecast of memory failed (RuntimeError: another torch)" in caplog.text
    assert "preflight.need_gib=N" in caplog.text


class Second(Processes):
    """Process 1 of two that are alike; process 0 refuses."""

    def gather(self, value):
        return ["PreflightError: no room" if value is None else value, value]


def test_one_process_speaks_for_all():
    with pytest.raises(PeerError, match="Process 0 stopped: PreflightError: no room"):
        check_gpus(PreflightConf(), NEED, pytest.fail, Second(1, 2, torch.device("cpu")), Machine(9).probes())
