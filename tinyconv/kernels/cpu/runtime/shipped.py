"""Machine code that came with the installation, made for a family of processors rather than for this one.

Compiling the kernels of a network takes seconds, and a wheel or an image can spare its users that:
``python -m tinyconv warmup --for x86-64-v3 x86-64-v4`` puts compiled kernels beside the sources. They are files of the
same cache that is filled when kernels are first called (``jit.py``), written by a process that compiled for the family
(NUMBA_CPU_NAME), so their names and first bytes say what they were made from: with other sources, another Numba or
another Python they are never looked at. They come before those compiled here, since two installations that have the
same files must round alike.

Each family has vectors of one width, and is for processors whose vectors are as wide: kernels lay their memory out in
such vectors, so narrower code must not meet wider.

The files are pickles, and loading one may run any code; but so may importing the sources beside them. They must belong
to the superuser or to this user, below folders that nobody else could exchange, and nobody else may write them.
"""

import functools
from pathlib import Path
from typing import NamedTuple

from numba.core.registry import cpu_target

from tinyconv.kernels.cpu.runtime import private

FOLDER = Path(__file__).parents[1] / "shipped"


class Family(NamedTuple):
    """What a processor must have, and what LLVM is told beside the family's name."""

    needs: frozenset[str]
    settings: str = ""


_V2 = "cx16 popcnt sahf sse3 sse4.1 sse4.2 ssse3"
_V3 = f"{_V2} avx avx2 bmi bmi2 f16c fma lzcnt movbe xsave"
_V4 = f"{_V3} avx512f avx512bw avx512cd avx512dq avx512vl"
# Levels of the x86-64 psABI.
FAMILIES = {
    "x86-64-v3": Family(frozenset(_V3.split())),
    "x86-64-v4": Family(frozenset(_V4.split()), "-prefer-256-bit"),
}


def family_of(features: str) -> str | None:
    """The family whose machine code a processor with these features ("+avx,-avx512f,...") runs at its full width."""
    has = {name[1:] for name in features.split(",") if name.startswith("+")}
    family = "x86-64-v4" if "avx512f" in has else "x86-64-v3"  # with vectors as wide
    return family if FAMILIES[family].needs <= has else None


class Place(NamedTuple):
    """A folder of machine code, and what that is made for: Numba's triple, processor and features."""

    folder: Path
    target: tuple[str, str, str]
    installed: bool = False  # perhaps by the superuser


def family_here() -> str | None:
    """The family of the processor that Numba compiles for."""
    return family_of(cpu_target.target_context.codegen().magic_tuple()[2])


@functools.cache
def places() -> list[Place]:
    """Where the machine code for this processor is, if some came with the installation that can be trusted."""
    family = family_here()
    if family is None:
        return []
    try:
        if not (FOLDER / family).is_dir():
            return []
        private.check_path(FOLDER / family / "file")
    except OSError:
        return []
    triple = cpu_target.target_context.codegen().magic_tuple()[0]
    return [Place(FOLDER / family, (triple, family, FAMILIES[family].settings), installed=True)]
