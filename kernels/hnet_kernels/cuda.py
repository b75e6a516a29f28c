"""The optional CUDA C++ kernels: `python -m hnet_kernels.cuda build` compiles them, ctypes loads them."""

import ctypes
import logging
import sys
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from hnet_kernels.tools.build_cuda import LIBRARY, main

log = logging.getLogger(__name__)


class CudaError(RuntimeError):
    """A launch that the CUDA runtime refused."""


class Library:
    """The functions of one compiled library."""

    def __init__(self, path: Path) -> None:
        """Raises OSError: the file is no library that loads here."""
        loaded = ctypes.CDLL(str(path))
        pointer, size = ctypes.c_void_p, ctypes.c_longlong
        self.workspace_words = loaded.hnet_boundary_scan_workspace
        self.workspace_words.argtypes, self.workspace_words.restype = [size], size
        self.launch = loaded.hnet_boundary_scan
        self.launch.argtypes, self.launch.restype = [pointer, pointer, size, ctypes.c_int, *[pointer] * 5], ctypes.c_int
        self.error_string = loaded.hnet_error_string
        self.error_string.argtypes, self.error_string.restype = [ctypes.c_int], ctypes.c_char_p
        self._workspaces: dict[tuple[torch.device, int], Tensor] = {}

    def boundary_scan(self, mask: Tensor, cu_seqlens: Tensor, stream: int) -> tuple[Tensor, Tensor, Tensor]:
        """`boundary_scan` on a given stream.

        Raises:
            CudaError: the launch was refused.
        """
        num_units, device = mask.shape[0], mask.device
        mask, cu_seqlens = mask.contiguous(), cu_seqlens.contiguous()
        chunk_index = torch.empty(num_units, dtype=torch.int64, device=device)
        chunk_offsets = torch.empty(num_units + 1, dtype=torch.int32, device=device)
        chunk_cu_seqlens = torch.empty_like(cu_seqlens)
        tensors = (chunk_index, chunk_offsets, chunk_cu_seqlens, self._workspace(num_units, device, stream))
        sizes = num_units, cu_seqlens.shape[0] - 1
        outputs = (tensor.data_ptr() for tensor in tensors)
        error = self.launch(mask.data_ptr(), cu_seqlens.data_ptr(), *sizes, *outputs, stream)
        if error:
            raise CudaError(
                f"the boundary scan was not launched: CUDA error {error}, {self.error_string(error).decode()}"
            )
        return chunk_index, chunk_offsets, chunk_cu_seqlens

    def _workspace(self, num_units: int, device: torch.device, stream: int) -> Tensor:
        """Zeros that every launch leaves as zeros. One for each stream, whose launches follow one another."""
        words = self.workspace_words(num_units)
        if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
            # Memory of a graph under capture is written when it is replayed, so other launches must not share it.
            return torch.zeros(words, dtype=torch.int64, device=device)
        held = self._workspaces.get((device, stream))
        if held is None or held.numel() < words:
            held = self._workspaces[device, stream] = torch.zeros(words, dtype=torch.int64, device=device)
        return held


@cache
def library() -> Library | None:
    """The compiled library, or None where it was not built. Says once which."""
    if not LIBRARY.is_file():
        log.info("no CUDA C++ kernels at %s: Triton's run instead", LIBRARY)
        return None
    log.info("CUDA C++ kernels of %s are used", LIBRARY)
    return Library(LIBRARY)


def boundary_scan(mask: Tensor, cu_seqlens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`chunk_scan` of `hnet_kernels.chunk` in one launch that reads the mask once.

    Args:
        mask: (T,) bool, True at boundaries and at every document's first unit. T < 2^31.
        cu_seqlens: (B+1,) int32.

    Returns:
        chunk_index (T,) int64; chunk_offsets (T+1,) int32, of which the first M entries are the boundaries'
        positions and the others T; chunk_cu_seqlens (B+1,) int32, whose last entry is M.

    Raises:
        RuntimeError: the library was not built.
        ValueError: a dtype is wrong, or there is a GPU and the tensors are not on it.
        CudaError: the launch was refused, as on a machine without a GPU.
    """
    if mask.dtype != torch.bool or cu_seqlens.dtype != torch.int32:
        raise ValueError(f"boundary_scan takes a bool mask and int32 bounds, got {mask.dtype} and {cu_seqlens.dtype}")
    found = library()
    if found is None:
        raise RuntimeError(f"{LIBRARY} is not there: build it with `python -m hnet_kernels.cuda build`")
    if not torch.cuda.is_available():
        return found.boundary_scan(mask, cu_seqlens, stream=0)
    if not (mask.is_cuda and cu_seqlens.is_cuda):
        raise ValueError(f"boundary_scan takes tensors on a GPU, got {mask.device} and {cu_seqlens.device}")
    with torch.cuda.device(mask.device):
        return found.boundary_scan(mask, cu_seqlens, torch.cuda.current_stream().cuda_stream)


if __name__ == "__main__":
    sys.exit(main())
