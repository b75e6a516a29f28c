"""What DeepSpeed is told: everything that the run decides, and nothing of a user's file that contradicts it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hnet.config import load_config
from hnet.config.library import config_names
from hnet.errors import ConfigError
from hnet.training.config import EngineConfig, RunConfig
from hnet.training.deepspeed_settings import deepspeed_settings

Make = Callable[..., RunConfig]


@pytest.fixture
def from_file(make_config: Make, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """The settings that a file with this content gives on 2 ranks."""

    def settings(content: Any, *overrides: str) -> dict[str, Any]:
        file = tmp_path / "theirs.json"
        file.write_text(content if isinstance(content, str) else json.dumps(content))
        return deepspeed_settings(make_config(f"engine.deepspeed_config={file}", *overrides), 2)

    return settings


@pytest.mark.parametrize("clip", [0.0, 0.7])
def test_clipping_is_always_written_since_deepspeed_would_clip_at_one(make_config: Make, clip: float) -> None:
    for stage in (1, 2, 3):
        config = make_config(f"engine.zero_stage={stage}", f"optimizer.gradient_clip={clip}")
        assert deepspeed_settings(config, 2)["gradient_clipping"] == clip


def test_a_file_without_clipping_or_with_auto_clips_as_the_run_says(from_file: Any) -> None:
    for content in ({}, {"gradient_clipping": "auto"}, {"gradient_clipping": 0.7}):
        content["zero_optimization"] = {"stage": 2}
        assert from_file(content, "optimizer.gradient_clip=0.7")["gradient_clipping"] == 0.7


def test_bf16_never_reaches_deepspeed_whose_stage_zero_would_take_a_step_of_its_own(from_file: Any) -> None:
    content = {"bf16": {"enabled": True}, "zero_optimization": {"stage": 0}}
    assert "bf16" not in from_file(content, "training.precision=bf16")


def test_what_the_run_does_not_decide_passes_through(from_file: Any) -> None:
    zero = {"stage": 3, "reduce_bucket_size": "auto", "stage3_max_live_parameters": 7, "sub_group_size": 5000}
    content = {
        "zero_optimization": zero,
        "wall_clock_breakdown": True,
        "communication_data_type": "bf16",
        "train_batch_size": "auto",
        "train_micro_batch_size_per_gpu": "auto",
        "optimizer": {"type": "AdamW", "params": {"lr": "auto", "betas": [0.9, 0.95], "weight_decay": "auto"}},
        "scheduler": {"type": "WarmupLR", "params": {"warmup_max_lr": "auto"}},
        "bf16": {"enabled": "auto"},
        "fp16": {"enabled": False},
    }
    settings = from_file(content)
    assert settings["wall_clock_breakdown"] is True and settings["communication_data_type"] == "bf16"
    merged = settings["zero_optimization"]
    assert (merged["stage"], merged["stage3_max_live_parameters"], merged["sub_group_size"]) == (3, 7, 5000)
    assert isinstance(merged["reduce_bucket_size"], int)
    assert not {"optimizer", "scheduler", "bf16", "fp16", "train_batch_size"} & settings.keys()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"train_batch_size": 8}, r"train_batch_size: 8 contradicts training.global_batch_bytes .* makes it 4"),
        ({"train_micro_batch_size_per_gpu": 3}, r"train_micro_batch_size_per_gpu: 3 contradicts training.micro_batch"),
        ({"gradient_accumulation_steps": 4}, r"gradient_accumulation_steps: 4 contradicts .* makes it 1"),
        ({"gradient_clipping": 0.5}, r"gradient_clipping: 0.5 contradicts optimizer.gradient_clip, which makes it 1.0"),
        ({"bf16": {"enabled": True}}, r"bf16.enabled: True contradicts training.precision"),
        ({"fp16": {"enabled": True}}, r"fp16.enabled: there is no fp16"),
        ({"optimizer": {"type": "Lion"}}, r"optimizer.type: 'Lion': the optimizer is AdamW"),
        ({"optimizer": {"type": "AdamW", "params": {"lr": 1.0}}}, r"optimizer.params.lr: 1.0 contradicts"),
        ({"scheduler": {"type": "WarmupLR", "params": {"warmup_num_steps": 5}}}, r"scheduler: .*`schedule`"),
        ({"zero_optimization": {"stage": 3, "mics_shard_size": 2}}, r"mics_shard_size: DeepSpeed has dropped MiCS"),
        ({"zero_optimization": {"stage": 3, "offload_param": {"device": "nvme"}}}, r"offload_param.device: .*NVMe"),
        ({"zero_optimization": {"stage": 2, "round_robin_gradients": True}}, r"round_robin_gradients"),
        ({"zero_optimization": {"stage": 3, "zero_hpz_partition_size": 3}}, r"groups of 3 ranks .* 2 ranks"),
        ({"zero_optimization": [1]}, r"theirs.json must hold a JSON object"),
        ({"zero_optimization": {"stage": "three"}}, r"zero_optimization.stage: 'three' is not 0, 1, 2 or 3"),
        ("{not json", r"theirs.json is not JSON"),
    ],
)
def test_a_contradiction_names_the_key(from_file: Any, content: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_file(content)


def test_a_missing_file_is_named(make_config: Make) -> None:
    with pytest.raises(ConfigError, match=r"engine.deepspeed_config: cannot read nowhere.json"):
        deepspeed_settings(make_config("engine.deepspeed_config=nowhere.json"), 2)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["engine.zero_stage=1", "engine.fsdp=true"], "zero_stage and fsdp exclude each other"),
        (["engine.deepspeed_config=x.json", "engine.offload=all"], "offload stands in the file"),
        (["engine.offload=optimizer"], "offload: optimizer needs zero_stage 1, 2 or 3"),
        (["engine.zero_stage=2", "engine.offload=all"], "offload: all needs zero_stage 3"),
        (["engine.zero_stage=2", "engine.shard_group=2"], "shard_group needs zero_stage 3 or fsdp"),
        (["engine.communication=bf16"], "communication: bf16 needs zero_stage"),
    ],
)
def test_settings_that_exclude_each_other_are_refused(make_config: Make, overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_config(*overrides)


@pytest.mark.parametrize("name", config_names("engine"))
def test_presets_are_valid_and_chosen_by_name(make_config: Make, name: str) -> None:
    config = make_config(f"engine={name}")
    assert config.engine == load_config(EngineConfig, name)
    if config.engine.zero_stage is not None:
        assert deepspeed_settings(config, 8)["zero_optimization"]["stage"] == config.engine.zero_stage
