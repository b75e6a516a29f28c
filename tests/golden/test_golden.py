"""The official H-Net, recorded in float32: same masks, probabilities, logits, losses and gradients here."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hnet.interop.official import from_official, model_config, to_official
from hnet.model.language_model import LanguageModel
from hnet.model.losses import cross_entropy_sum
from hnet.model.packed import next_in_document
from hnet.model.parameter_groups import lr_multipliers, parameter_groups, stage_of
from hnet_kernels import backend

CASES = sorted(path for path in (Path(__file__).parent / "data").iterdir() if path.is_dir())


class Golden:
    def __init__(self, folder: Path) -> None:
        self.meta = json.loads((folder / "meta.json").read_text())
        self.grad_norms = json.loads((folder / "grad_norms.json").read_text())
        self.optim_groups = json.loads((folder / "optim_groups.json").read_text())
        self.io = load_file(folder / "io.safetensors")
        weights = load_file(folder / "model.safetensors")
        config = model_config(json.loads((folder / "config.json").read_text()), self.meta["ratio_N"])
        self.model = LanguageModel(config)
        names = [name for name, _ in self.model.named_parameters()]
        self.model.load_state_dict(from_official(weights, names), strict=not config.tie_embeddings)
        self.ids, self.cu_seqlens = self.io["input_ids"], self.io["cu_seqlens"].int()

    def documents(self) -> list[tuple[int, int]]:
        ends = self.cu_seqlens.tolist()
        return list(zip(ends, ends[1:], strict=False))


@pytest.fixture(scope="module", params=CASES, ids=lambda path: path.name)
def golden(request: pytest.FixtureRequest) -> Golden:
    return Golden(request.param)


@pytest.fixture(params=["reference", "triton"])
def through(request: pytest.FixtureRequest) -> Iterator[None]:
    """Dynamic chunking by the reference operations, or by the kernels (interpreted where there is no GPU)."""
    with backend(request.param):
        yield


@pytest.mark.usefixtures("through")
def test_forward(golden: Golden) -> None:
    losses = golden.model.loss(golden.ids, golden.cu_seqlens)
    for index, stage in enumerate(losses.output.stages):
        assert torch.equal(stage.boundary_mask, golden.io[f"stage{index}.boundary_mask"])
        assert torch.equal(stage.cu_seqlens.long(), golden.io[f"stage{index}.cu_seqlens"].long())
        torch.testing.assert_close(stage.boundary_prob, golden.io[f"stage{index}.boundary_prob"], atol=1e-5, rtol=0)
    torch.testing.assert_close(losses.output.logits, golden.io["logits"], atol=1e-4, rtol=0)
    torch.testing.assert_close(losses.cross_entropy[None], golden.io["ce_loss"], atol=1e-5, rtol=0)
    torch.testing.assert_close(torch.stack(losses.boundary), golden.io["ratio_loss"], atol=1e-5, rtol=0)
    torch.testing.assert_close(losses.total[None], golden.io["total_loss"], atol=1e-5, rtol=0)


@pytest.mark.usefixtures("through")
@pytest.mark.parametrize("loss_name", ["ce", "ce_plus_ratio"])
def test_gradient_norms(golden: Golden, loss_name: str) -> None:
    golden.model.zero_grad()
    losses = golden.model.loss(golden.ids, golden.cu_seqlens)
    (losses.cross_entropy if loss_name == "ce" else losses.total).backward()
    for name, parameter in golden.model.named_parameters():
        expected = golden.grad_norms[loss_name][to_official(name)]
        assert parameter.grad is not None, name
        assert float(parameter.grad.norm()) == pytest.approx(expected, rel=1e-3, abs=1e-9), name


@pytest.mark.usefixtures("through")
def test_each_document_alone(golden: Golden) -> None:
    for start, end in golden.documents():
        logits = golden.model(golden.ids[start:end]).logits
        torch.testing.assert_close(logits, golden.io["logits"][start:end], atol=1e-4, rtol=0)


@pytest.mark.usefixtures("through")
def test_prefill_and_cached_steps(golden: Golden) -> None:
    """The first 1 or 20 units of every document at once, then one unit at a time, rows of ragged length."""
    documents = golden.documents()
    prefix = [min(20, end - start) if row % 2 else 1 for row, (start, end) in enumerate(documents)]
    ids = torch.cat([golden.ids[start : start + n] for (start, _), n in zip(documents, prefix, strict=True)])
    cu_seqlens = torch.tensor([0, *prefix]).cumsum(0).int()
    cache = golden.model.new_cache(len(documents))
    logits = golden.model.prefill(ids, cu_seqlens, cache).logits
    expected = torch.cat([golden.io["logits"][s : s + n] for (s, _), n in zip(documents, prefix, strict=True)])
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=0)
    for offset in range(max(end - start for start, end in documents)):
        rows = [r for r, (start, end) in enumerate(documents) if start + prefix[r] + offset < end]
        if not rows:
            break
        index = torch.tensor([documents[r][0] + prefix[r] + offset for r in rows])
        logits, _ = golden.model.step(golden.ids[index], cache, torch.tensor(rows))
        torch.testing.assert_close(logits, golden.io["logits"][index], atol=1e-4, rtol=0)


def test_learning_rate_multipliers(golden: Golden) -> None:
    multipliers = lr_multipliers(golden.model.config)
    assert multipliers == pytest.approx(golden.optim_groups["lr_multipliers_eq11"], rel=1e-12)
    for name, _ in golden.model.named_parameters():
        expected = golden.optim_groups["params"][to_official(name)]["lr_multiplier"]
        assert multipliers[stage_of(name)] == pytest.approx(expected, rel=1e-12), name


def test_official_no_decay_is_a_subset(golden: Golden) -> None:
    exempt = {
        to_official(name)
        for group in parameter_groups(golden.model, weight_decay=0.1)
        if group["weight_decay"] == 0
        for name in group["names"]
    }
    official = {name for name, entry in golden.optim_groups["params"].items() if entry["weight_decay_forced_zero"]}
    assert official and official <= exempt


def test_parameter_groups_hold_every_parameter_once(golden: Golden) -> None:
    groups = parameter_groups(golden.model, weight_decay=0.1)
    names = [name for group in groups for name in group["names"]]
    assert sorted(names) == sorted(name for name, _ in golden.model.named_parameters())
    targets = next_in_document(golden.ids, golden.cu_seqlens, -100)
    assert float(cross_entropy_sum(golden.io["logits"], targets)) > 0
