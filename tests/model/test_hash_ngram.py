"""The embedding of hashed n-grams against its definition in a loop, with BLT's numbers and with ours."""

import pytest
import torch
from torch import Tensor

import hnet
from hnet.model.config.embeddings import HashNgramConfig
from hnet.model.embeddings.hash_ngram import BLT_NUMBERS, PRIMES, HashNgrams
from hnet.model.packed import Packed


def expected(tables: Tensor, numbers: list[int], config: HashNgramConfig) -> Tensor:
    """Sums of rows (T, D) of one document."""
    rows = []
    for end in range(1, len(numbers) + 1):
        total = torch.zeros_like(tables[0, 0])
        for table, (prime, size) in enumerate((p, n) for p in PRIMES[: config.functions] for n in config.sizes):
            gram = [0] * max(0, size - end) + numbers[max(0, end - size) : end]
            # Products wrap around at 2^64, and the remainder is never negative.
            total = total + tables[table, _signed(sum(u * prime**i for i, u in enumerate(gram))) % config.rows]
        rows.append(total)
    return torch.stack(rows)


def _signed(value: int) -> int:
    return (value + 2**63) % 2**64 - 2**63


@pytest.mark.parametrize("numbering", ["own", "blt"])
def test_rows_are_those_of_the_definition(numbering: str) -> None:
    config = HashNgramConfig(sizes=(1, 3, 8), functions=2, rows=101, numbering=numbering)
    embedding = HashNgrams(4, config)
    torch.nn.init.normal_(embedding.tables)
    ids = torch.tensor([254, *b"the cat sat on the mat", 255, 254, *b"a", 255])
    pack = Packed(torch.randn(len(ids), 4), torch.tensor([0, 24, 27], dtype=torch.int32))
    numbers = ids.tolist() if numbering == "own" else [BLT_NUMBERS[unit] for unit in ids.tolist()]
    sums = torch.cat([expected(embedding.tables, part, config) for part in (numbers[:24], numbers[24:])])
    torch.testing.assert_close(embedding(pack, ids), pack.values + sums)


def test_numbers_of_blt_are_a_renaming() -> None:
    """Bytes from 4 on, BOS 1, EOS 2 (facebookresearch/blt, tokenizers/constants.py)."""
    assert sorted(BLT_NUMBERS) == list(range(260))
    assert [BLT_NUMBERS[unit] for unit in (0, ord("a"), 253, 254, 255)] == [4, 101, 257, 1, 2]


@pytest.mark.parametrize("name", ["blt_small", "blt_1b"])
def test_configured_models_have_the_published_parameters(name: str) -> None:
    """4.53 billion in BLT 1B with its tables (arXiv 2512.15586, table 2), and one learned vector that ours has more."""
    model = hnet.build(name, device="meta")
    tables = sum(weight.numel() for key, weight in model.named_parameters() if key.endswith("tables"))
    assert tables == model.config.embedding.lookup(model.config.stages[0].d_model)
    if name == "blt_1b":
        assert sum(weight.numel() for weight in model.parameters()) == 4_533_881_856
        assert tables == 6 * 500_002 * 1024
