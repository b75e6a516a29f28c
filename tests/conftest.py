"""Settings of every test."""

import os

import torch
from hypothesis import settings

# Triton decides when a kernel is decorated whether it is interpreted, so this comes before any import of it.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

# No deadline: the first example pays for imports. Derandomised: a run in CI can be repeated exactly.
settings.register_profile("hnet", deadline=None, derandomize=True)
settings.load_profile("hnet")
