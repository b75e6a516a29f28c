"""What a compiled kernel takes: registers, shared memory, spills, and the width of its loads of rows."""

import re
import subprocess
import tempfile
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import triton

TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
FEWEST_ROW_ELEMENTS = 64
"""A load of fewer elements at once is a load of scalars, whatever it points to."""


@dataclass(frozen=True)
class Resources:
    """Of one kernel on one target."""

    registers: int
    """Per thread; vector registers on AMD."""
    shared_bytes: int
    stack_bytes: int
    """Local memory of a thread; scratch on AMD."""
    spills: int
    """Instructions that load from or store to local memory; spilled vector registers on AMD."""
    row_load_bytes: int | None
    """Of the narrowest instruction that loads rows; None for a kernel that loads none."""


def measure(kernel: Any, target: str, row_arguments: Collection[str]) -> Resources:
    """`kernel` comes from `triton.compile`; `row_arguments` are its pointers to tensors of D-wide rows."""
    places = row_load_places(kernel.asm["ttgir"], row_arguments)
    if target.startswith("hip"):
        text = kernel.asm["amdgcn"]
        return Resources(
            registers=_number(r"\.vgpr_count:\s*(\d+)", text),
            shared_bytes=kernel.metadata.shared,
            stack_bytes=_number(r"\.private_segment_fixed_size:\s*(\d+)", text),
            spills=_number(r"\.vgpr_spill_count:\s*(\d+)", text),
            row_load_bytes=_narrowest(loads(text, _AMD_LOAD, _amd_bytes), places),
        )
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        usage = _run("cuobjdump", "-res-usage", file.name)
        stack = _number(r"STACK:(\d+)", usage) + _number(r"LOCAL:(\d+)", usage)
        # Only a kernel with a stack can load from or store to it.
        instructions = _run("nvdisasm", "-c", file.name) if stack else ""
    return Resources(
        registers=_number(r"REG:(\d+)", usage),
        shared_bytes=kernel.metadata.shared,
        stack_bytes=stack,
        spills=len(re.findall(r"\b(?:LDL|STL)\b", instructions)),
        row_load_bytes=_narrowest(loads(kernel.asm["ptx"], _PTX_LOAD, _ptx_bytes), places),
    )


def _run(tool: str, *arguments: str) -> str:
    done = subprocess.run([str(TOOLS / tool), *arguments], capture_output=True, text=True, check=True)
    return done.stdout + done.stderr


def _number(pattern: str, text: str) -> int:
    match = re.search(pattern, text)
    if match is None:
        raise ValueError(f"the compiler's report lacks {pattern}")
    return int(match[1])


# Triton's GPU IR names every load with its pointers' type and its place in the source:
#   %z = tt.load %ptr, %mask, %other : tensor<8x1024x!tt.ptr<bf16>, #blocked> loc(#loc60)
_DEFINITION = re.compile(r"^\s*(%[\w#:]+)(?:, %\w+)* = ([\w.]+) (.*)$")
_LOAD = re.compile(r"(?:tt\.load|ttg\.async_copy_global_to_local|amdg?(?:pu)?\.buffer_load\w*) (%[\w#]+)")
_PLACE = re.compile(r'^(#loc\d*) = loc\((?:"[^"]*":(\d+):(\d+)|"[^"]*"\((#loc\d*)\)|callsite\((#loc\d*) at .*)\)?\)$')
_THROUGH = ("tt.addptr", "tt.splat", "tt.broadcast", "tt.expand_dims", "ttg.convert_layout", "tt.bitcast", "tt.reshape")


def row_load_places(ttgir: str, row_arguments: Collection[str]) -> set[tuple[int, int]]:
    """(line, column) of every load that reads rows: of a block of elements, through one of `row_arguments`."""
    definitions: dict[str, str] = {}
    places: dict[str, tuple[str, ...]] = {}
    for line in ttgir.splitlines():
        if definition := _DEFINITION.match(line):
            definitions[definition[1].split(":")[0]] = f"{definition[2]} {definition[3]}"
        for name, start in re.findall(r"(%\w+) = (%[\w#]+)[,)]", line) if "iter_args(" in line else ():
            definitions[name] = f"tt.bitcast {start} :"
        if place := _PLACE.match(line):
            places[place[1]] = tuple(place.groups()[1:])
    found = set()
    for line in ttgir.splitlines():
        if not (load := _LOAD.search(line)) or "tensor<" not in line:
            continue
        base = _base(load[1], definitions)
        if _num_elements(line) >= FEWEST_ROW_ELEMENTS and (base is None or base in row_arguments):
            found.add(_resolve(re.findall(r"loc\((#loc\d*)\)", line)[-1], places))
    return found


def _base(name: str, definitions: dict[str, str]) -> str | None:
    """The kernel argument that a pointer was made from; None where it cannot be told."""
    while name in definitions:
        operation, _, operands = definitions[name].partition(" ")
        if operation not in _THROUGH:
            return None
        name = re.match(r"%[\w#]+", operands)[0]  # type: ignore[index]
    return name.removeprefix("%")


def _num_elements(line: str) -> int:
    count = 1
    for size in re.search(r"tensor<((?:\d+x)+)", line)[1].split("x")[:-1]:  # type: ignore[index]
        count *= int(size)
    return count


def _resolve(name: str, places: dict[str, tuple[str, ...]]) -> tuple[int, int]:
    line, column, named, callee = places[name]
    return (int(line), int(column)) if line else _resolve(named or callee, places)


_PTX_LOAD = re.compile(r"\b(?:ld\.global[.\w:]*|cp\.async\.c[ag]\.shared\.global.*)")
_AMD_LOAD = re.compile(r"\b(?:global|buffer)_load_(\w+)")


def _ptx_bytes(instruction: str) -> int:
    if instruction.startswith("cp.async"):
        return int(re.search(r"\],\s*(0x[0-9a-f]+|\d+)", instruction)[1], 0)  # type: ignore[index]
    count = re.search(r"\.v(\d)", instruction)
    return int(re.search(r"\.[bfsu](\d+)", instruction)[1]) // 8 * (int(count[1]) if count else 1)  # type: ignore[index]


def _amd_bytes(instruction: str) -> int:
    sizes = {"dword": 4, "ushort": 2, "sshort": 2, "short": 2, "ubyte": 1, "sbyte": 1}
    kind = instruction.partition("_load_")[2]
    for name, size in sizes.items():
        if kind.startswith(name):
            times = re.match(r"x(\d)", kind.removeprefix(name))
            return size * (int(times[1]) if times else 1)
    return int(re.match(r"[bui](\d+)", kind)[1]) // 8  # type: ignore[index]


def loads(assembly: str, pattern: re.Pattern[str], size: Any) -> list[tuple[tuple[int, int], int]]:
    """((line, column), bytes) of every load from global memory; the place is that of the innermost function."""
    place, found = (0, 0), []
    for line in assembly.splitlines():
        if location := re.match(r"\s*\.loc\s+\d+ (\d+) (\d+)", line):
            place = int(location[1]), int(location[2])
        elif instruction := pattern.search(line):
            found.append((place, size(instruction[0])))
    return found


def _narrowest(every: list[tuple[tuple[int, int], int]], places: set[tuple[int, int]]) -> int | None:
    """Bytes of the narrowest load at `places`; where the compiler lost them all, of the widest load anywhere."""
    if not places:
        return None
    widths = [width for place, width in every if place in places]
    return min(widths) if widths else max((width for _, width in every), default=0)
