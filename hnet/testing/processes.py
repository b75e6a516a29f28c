"""Child processes that start quickly: forked from a server that has imported torch once."""

import multiprocessing
from multiprocessing.context import ForkServerContext

_PRELOADED = ["torch", "accelerate", "safetensors.torch", "pydantic", "matplotlib.figure", "hnet.training.loop"]


def process_context() -> ForkServerContext:
    """A multiprocessing context whose processes begin without the seconds that `import torch` takes."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    return context
