"""No kernel touches memory that it was not given, and no two programs of a launch meet in one place."""

import pytest
import torch
import triton
import triton.language as tl

from hnet_kernels import backend
from hnet_kernels.case import Sizes
from hnet_kernels.tools.cases import discover, run_both

if torch.cuda.is_available():
    pytest.skip("kernels are looked at in the interpreter, which a GPU turns off", allow_module_level=True)

from accesses import watched

CASES = [case for _, case in discover()]


@triton.jit
def neighbour_kernel(x_ptr, out_ptr, size, OFFSET: tl.constexpr, STRIDE: tl.constexpr, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + i + OFFSET, mask=i < size, other=0.0)
    tl.store(out_ptr + i // STRIDE, x, mask=i < size)


@pytest.mark.parametrize(
    ("offset", "stride", "in_place", "faults"),
    [
        (0, 1, False, set()),
        (1, 1, False, {"neighbour_kernel loads outside its tensors"}),
        (-1, 1, False, {"neighbour_kernel loads outside its tensors"}),
        (0, 2, False, {"neighbour_kernel stores to one address twice at once"}),
        (0, 12, False, {f"neighbour_kernel stores {what}" for what in (
            "what another program stores", "to one address twice at once",
        )}),
        (0, 1, True, set()),
        (-1, 1, True, {"neighbour_kernel loads outside its tensors",
                       "neighbour_kernel loads what another program stores"}),
        (1, 1, True, {"neighbour_kernel loads outside its tensors",
                      "neighbour_kernel stores what another program loads"}),
    ],
)  # fmt: skip
def test_planted_faults_are_seen(offset, stride, in_place, faults):
    x = torch.zeros(40)
    out = x if in_place else torch.zeros(40)
    with watched() as watch:
        neighbour_kernel[(5,)](x, out, 40, OFFSET=offset, STRIDE=stride, BLOCK=8)
    assert watch.faults == faults and watch.accesses == 10


@pytest.mark.parametrize("sizes", [(1, 1, 16, 1), (97, 20, 48, 3), (300, 3, 16, 2)], ids=str)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_kernels_keep_to_their_tensors_and_programs_to_themselves(case, sizes):
    num_units, num_chunks, width, num_documents = sizes
    inputs = case.inputs(Sizes(num_units, num_chunks, width, num_documents=num_documents, dtype=torch.float32))
    with backend("triton"), watched() as watch:
        run_both(case.run, inputs)
    assert watch.accesses > 0 and not watch.faults
