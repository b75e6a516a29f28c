"""Hypothesis strategies for random models and ragged packs."""

import torch
from hypothesis import strategies as st

from hnet.model.config import ModelConfig, StageConfig
from hnet.model.language_model import LanguageModel

LAYERS = st.sampled_from(["m1", "t1", "M1", "T1", "m1t1", "T1m1", ""])
MAIN = st.sampled_from(["T1", "M1", "t1m1", "m2", "T1M1"])


@st.composite
def model_configs(draw: st.DrawFn) -> ModelConfig:
    """One to three stages, all layer kinds, windows, partial rotary, growing widths, tied or untied embeddings."""
    num_stages = draw(st.integers(1, 3))
    width, stages = 16, []
    for index in range(num_stages):
        width += draw(st.sampled_from([0, 0, 16])) if index else 0
        heads = draw(st.sampled_from([1, 2]))
        common = {
            "d_model": width,
            "attention": {
                "num_heads": heads,
                "rotary_dim": draw(st.sampled_from([0, 4, 8])),
                "window": draw(st.sampled_from([-1, 0, 2, 5])),
            },
            "ssm": {
                "d_state": draw(st.sampled_from([4, 8])),
                "d_conv": draw(st.integers(2, 4)),
                "expand": 2,
                "head_dim": 8,
            },
            "boundary": {"ratio": draw(st.sampled_from([1.5, 3.0]))},
        }
        if index == num_stages - 1:
            stages.append(StageConfig(main=draw(MAIN), **common))
        else:
            stages.append(StageConfig(encoder=draw(LAYERS), decoder=draw(LAYERS), **common))
    return ModelConfig(stages=tuple(stages), tie_embeddings=draw(st.booleans()))


def lengths() -> st.SearchStrategy[list[int]]:
    """Document lengths, with many of length 1."""
    return st.lists(st.one_of(st.just(1), st.integers(1, 40)), min_size=1, max_size=6)


def random_model(config: ModelConfig, seed: int) -> LanguageModel:
    """A float64 model whose every parameter is moved off its initial value, routers included."""
    torch.manual_seed(seed)
    model = LanguageModel(config, dtype=torch.float64)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            scale = 1.0 if "q_proj" in name or "k_proj" in name else 0.2
            parameter.add_(scale * torch.randn_like(parameter))
    return model.eval()


def random_pack(document_lengths: list[int], seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """ids (T,) and cu_seqlens (B + 1,) of random bytes."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, 256, (sum(document_lengths),), generator=generator)
    return ids, torch.tensor([0, *document_lengths]).cumsum(0).int()
