"""Block sizes of kernels that walk rows of D elements."""

import triton


def row_tile(width: int, elements: int = 4096) -> tuple[int, int]:
    """(rows, columns) of a tile of about `elements`: columns divide a D such as 1536, so that no lane is idle."""
    columns = min(triton.next_power_of_2(width), 1024)
    while columns > 256 and width % columns:
        columns //= 2
    return max(1, elements // columns), columns
