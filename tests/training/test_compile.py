"""`training.compile`: compiled blocks compute what they did, for packs of any size."""

import torch

import hnet
from hnet.model.stack import Block


def test_compiled_blocks_compute_the_same() -> None:
    model = hnet.build("hnet_tiny")
    ids, lengths = torch.arange(300) % 250, [(200, 80), (260, 30), (300, 299)]

    def gradient_norms() -> list[float]:
        norms = []
        for total, first in lengths:
            model.zero_grad()
            model.loss(ids[:total], torch.tensor([0, first, total], dtype=torch.int32)).total.backward()
            norms.append(float(torch.nn.utils.get_total_norm([p.grad for p in model.parameters()])))
        return norms

    eager = gradient_norms()
    for module in model.modules():
        if isinstance(module, Block):
            module.compile(dynamic=True, backend="aot_eager")
    torch.testing.assert_close(torch.tensor(gradient_norms()), torch.tensor(eager), rtol=1e-5, atol=0)
