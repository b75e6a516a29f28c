"""The planner: memory, communication, time, and what it refuses. `tests/distributed/test_planner_bytes.py` measures."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hnet.cli import main
from hnet.config import load_config
from hnet.model.accounting import (
    activation_bytes,
    count_lookup_and_linear_weights,
    count_parameters,
    flops_per_byte,
)
from hnet.model.config import RouterConfig
from hnet.training.config import RunConfig
from hnet_launch.cluster import ClusterConfig
from hnet_launch.plan.assumptions import Assumptions, expected_bytes_per_chunk
from hnet_launch.plan.communication import Transfer, seconds
from hnet_launch.plan.planner import Plan, plan_run

GIGA = 1e9
XL = ("plan", "fineweb_edu", "model=hnet_2stage_XL")


def plan(*overrides: str, cluster: str = "h100_8x8", **assumed: float) -> Plan:
    config = load_config(RunConfig, "fineweb_edu", ["model=hnet_2stage_XL", *overrides])
    assumptions = Assumptions(expected_bytes_per_chunk(config.model), **assumed)
    return plan_run(config, load_config(ClusterConfig, cluster), assumptions)


def test_memory_is_the_sum_of_its_parts() -> None:
    one = plan("training.micro_batch_bytes=8192", cluster="h100_1")
    count = count_parameters(one.config.model)
    assert (one.mean.state.parameters, one.mean.state.optimizer) == (4 * count, 8 * count)
    assert one.mean.half_copies == 2 * count
    units = [8192, 3094, 1168]
    assert sum(one.mean.activations.values()) == pytest.approx(
        activation_bytes(one.config.model, units, dtype_bytes=2), rel=1e-3
    )
    assert sum(one.worst.activations.values()) == activation_bytes(one.config.model, [8192] * 3, dtype_bytes=2)
    assert one.mean.total == 18 * count + sum(one.mean.activations.values())


def test_every_engine_needs_less_on_the_gpu_than_the_one_before() -> None:
    states = [fit.state for fit in plan().fits]
    assert states == sorted(states, reverse=True) and states[0] > 20 * states[-2] and states[-1] == 0
    offloaded = plan("engine.zero_stage=3", "engine.offload=all").mean
    assert offloaded.on_host == offloaded.state.total


def test_state_of_what_fits_is_that_of_its_micro_batches() -> None:
    """ZeRO-1 keeps all gradients where a step has several micro-batches, and only its part of them where it has one."""
    many = plan("model=hnet_1stage_XL", cluster="h100_8")
    count, zero1 = count_parameters(many.config.model), many.fits[1]
    assert (zero1.engine, zero1.at_worst) == ("ZeRO-1", 2)
    assert zero1.state == pytest.approx(8 * count + 12 * count / 8)
    single = plan("model=hnet_1stage_XL", "training.global_batch_bytes=65536", cluster="h100_8").fits[1]
    assert single.at_worst == 1 and single.state < zero1.state - 3 * count


def test_a_bound_on_chunks_bounds_the_worst() -> None:
    free = plan("training.micro_batch_bytes=8192")
    stages = [
        stage if stage.is_innermost else stage.model_copy(update={"boundary": RouterConfig(max_chunk_fraction=0.5)})
        for stage in free.config.model.stages
    ]
    model = free.config.model.model_copy(update={"stages": tuple(stages)})
    bound = plan_run(free.config.model_copy(update={"model": model}), free.cluster, free.assumptions)
    assert bound.worst.activations["stages.2"] == pytest.approx(free.worst.activations["stages.2"] / 4, rel=1e-3)
    assert bound.mean == free.mean


def test_communication_of_every_engine_by_hand() -> None:
    size = 4 * count_parameters(plan().config.model)
    ring = size * 63 / 64
    micro = "training.micro_batch_bytes=8192"  # 4 micro-batches a step

    def sent(*overrides: str) -> dict[str, float]:
        transfers = plan(micro, *overrides).transfers
        return {f"{transfer.kind} {transfer.of}": transfer.bytes_per_gpu for transfer in transfers}

    assert sent() == {"all-reduce gradients": pytest.approx(2 * ring)}
    one, two = (sent(f"engine.zero_stage={stage}") for stage in (1, 2))
    assert one == {"all-reduce gradients": 2 * ring, "all-gather updated parameters": ring}
    assert two["all-reduce gradients"] == 4 * one["all-reduce gradients"]
    three = sent("engine.zero_stage=3", "training.precision=fp32")
    assert list(three.values()) == [4 * ring] * 3
    halved = sent("engine.zero_stage=3")
    gathered = size - 2 * count_lookup_and_linear_weights(plan().config.model)
    assert size / 2 < gathered < 0.53 * size
    assert list(halved.values()) == pytest.approx([4 * gathered * 63 / 64] * 2 + [4 * ring])
    groups = sent("engine.zero_stage=3", "engine.shard_group=8")
    assert groups["all-gather parameters, backward"] == 4 * gathered * 7 / 8
    assert sent("engine.fsdp=true")["all-gather parameters, forward"] == 4 * ring
    fsdp = sent("engine.fsdp=true", "engine.shard_group=8")
    assert fsdp["all-reduce gradients across groups"] == pytest.approx(2 * 4 * size / 8 * 7 / 8)
    half = sent("engine.zero_stage=2", "engine.communication=bf16")
    assert half["all-reduce gradients"] == two["all-reduce gradients"] / 2


def test_sequence_parallel_shares_the_activations_of_a_window() -> None:
    alone = plan("training.micro_batch_bytes=8192", cluster="h100_8")
    shared = plan("training.micro_batch_bytes=8192", "engine.sequence_parallel=4", cluster="h100_8")
    assert sum(shared.mean.activations.values()) == pytest.approx(sum(alone.mean.activations.values()) / 4, rel=2e-3)
    assert shared.num_micro_batches == 4 * alone.num_micro_batches
    assert [transfer.kind for transfer in shared.transfers] == ["all-reduce", "all-to-all"]


def test_links_within_and_between_nodes() -> None:
    cluster = ClusterConfig(nodes=2, gpus_per_node=4, intra_node_gb_per_s=400.0, inter_node_gb_per_s=25.0)
    gpu = plan().gpu

    def time(ranks: int, **more: Any) -> float:
        return seconds(Transfer("all-gather", "x", 100 * GIGA, ranks, **more), cluster, gpu, 0.5)

    assert time(4) == pytest.approx(100 / 200)
    assert time(8) == pytest.approx(100 / 50)
    assert time(2, spread=True) == pytest.approx(100 / 12.5)
    host = seconds(Transfer("to and from host", "x", gpu.host_bytes_per_s, 1), cluster, gpu, 0.5)
    assert host == pytest.approx(2)


def test_time_and_energy_by_hand() -> None:
    given = plan(cluster="h100_8", utilization=0.5, overlap=0.0, waiting=0.1, link_efficiency=1.0)
    shares = [1, *(1 / ratio for ratio in given.assumptions.bytes_per_chunk)]
    flops = 3 * flops_per_byte(given.config.model, shares, 8192) * 2097152
    computing = flops / (8 * 989e12 * 0.5)
    communicating = 2 * 7 / 8 * 4 * count_parameters(given.config.model) / 450e9
    assert given.cost.step == pytest.approx((computing + communicating) / 0.9)
    assert given.cost.mfu == pytest.approx(flops / (given.cost.step * 8 * 989e12))
    assert given.cost.kwh == pytest.approx(given.cost.step * 219000 * 8 * 0.7 * 1.5 / 3600)
    again = plan("training.activation_checkpointing=true", cluster="h100_8", utilization=0.5)
    assert again.cost.computing == pytest.approx(4 / 3 * computing)


def test_expected_chunks_are_near_the_published_ones() -> None:
    assert plan().assumptions.bytes_per_chunk[-1] == pytest.approx(7.0, abs=0.1)
    assert plan("model=hnet_1stage_L").assumptions.bytes_per_chunk == pytest.approx((4.7,), abs=0.05)
    assert plan("model=byte_mamba_small").assumptions.bytes_per_chunk == ()


def test_command_prints_every_assumption_and_writes_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "plan.json"
    words = "plan fineweb_edu model=hnet_2stage_L --nodes 2 --gpus-per-node 4 --gpu a100 --waiting 0.03"
    assert main([*words.split(), "--bytes-per-chunk", "2.5,7", "--json", str(out)]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    for part in ("874,315,264 parameters on 8 x A100 (2 x 4)", "2.50 and 7.00 bytes per chunk", "35% of 312 TFLOP/s",
                 "3% of the time lost", "92% of 80 GiB", "400 W per GPU", "Least sharding that fits"):  # fmt: skip
        assert part in printed
    report = json.loads(out.read_text())
    assert report["assumptions"]["bytes_per_chunk"] == [2.5, 7.0]
    memory = report["memory"]["worst"]
    parts = sum(memory["state"].values()) + memory["buffers"] + memory["half_copies"]
    assert memory["total"] == parts + sum(memory["activations"].values())


def test_comparison_takes_the_assumptions_and_writes_its_rows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "rows.json"
    words = "plan fineweb_edu --models hnet_1stage_L --clusters h100_1,h100_8 --gpu A100 --bytes-per-chunk 4"
    assert main([*words.split(), "--utilization", "0.5", "--overlap", "0", "--waiting", "0", "--json", str(out)]) == 0
    printed, rows = capsys.readouterr().out, json.loads(out.read_text())
    assert [(row["model"], row["cluster"]["gpus_per_node"]) for row in rows] == [
        ("hnet_1stage_L", 1),
        ("hnet_1stage_L", 8),
    ]
    for row, line in zip(rows, printed.splitlines()[2:], strict=True):
        given = row["assumptions"]
        assert [given[name] for name in ("utilization", "overlap", "waiting", "bytes_per_chunk")] == [0.5, 0, 0, [4]]
        assert row["cluster"]["gpu"] == "A100"
        assert f" {row['cost']['bytes_per_second'] / 1e6:.2f} |" in line


def test_what_does_not_fit_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*XL, "--gpu", "RTX3090", "data.sequence_length=1048576"]) == 0
    assert "does not fit: not one window does with any engine" in capsys.readouterr().out
    assert main([*XL, "--gpu", "H100"]) == 0
    assert "lower training.micro_batch_bytes" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("--gpu H1000", "gpu: 'H1000' is not in the planner's table; there are: A100"),
        ("--nodes 0", "nodes: got 0"),
        ("--cluster h100_9", "h100_8"),
        ("--bytes-per-chunk 3", "has 2 chunking stages: give 2 numbers"),
        ("--bytes-per-chunk 7,3", "none smaller than the one before"),
        ("--bytes-per-chunk a,b", "give numbers with commas"),
        ("--bytes-per-chunk nan,nan", "--bytes-per-chunk nan,nan: the model has 2 chunking stages"),
        ("--bytes-per-chunk 3,inf", "--bytes-per-chunk 3,inf: the model has 2 chunking stages"),
        ("--json /dev/null/plan.json", "--json /dev/null/plan.json cannot be written"),
        ("--clusters h100_8", "--clusters is for --models alone"),
        ("--models hnet_1stage_L --cluster h100_8", "--cluster is not for --models: name the clusters with --clusters"),
        ("--models hnet_1stage_L --gpus-per-node 8", "--gpus-per-node is not for --models"),
        ("--models hnet_1stage_L --simulate x.npz", "--simulate replays one model and --models compares several"),
        ("--models hnet_1stage_L --micro-batches 2", "--micro-batches replays one model"),
        ("--models hnet_1stage_L --utilization 2", "--utilization 2: give a share"),
        (
            "--models hnet_1stage_L,hnet_2stage_L --bytes-per-chunk 4",
            "hnet_2stage_L: --bytes-per-chunk 4: the model has",
        ),
        ("--utilization 0", "--utilization 0: give a share"),
        ("--waiting 1.5", "--waiting 1.5: give a share"),
        ("engine.sequence_parallel=3 --gpus-per-node 8", "sequence_parallel 3 does not divide 8"),
        ("engine.zero_stage=3 engine.shard_group=3 --gpus-per-node 8", "shard_group 3 does not divide 8"),
    ],
)
def test_bad_input(words: str, expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*XL, *words.split()]) == 2
    assert expected in capsys.readouterr().err


def test_starts_without_torch() -> None:
    code = (
        "import sys, hnet.cli; hnet.cli.main(['plan', 'fineweb_edu', 'engine.zero_stage=1', '--gpu', 'H100']); "
        "sys.exit('torch' in sys.modules)"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True).returncode == 0
