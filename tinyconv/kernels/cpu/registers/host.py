"""How wide this machine's vectors are, as Numba will use them."""

import functools
import hashlib
import platform

import llvmlite.binding as llvm
from numba.core.registry import cpu_target

from tinyconv.kernels.cpu.runtime import shipped

# What each family of vector registers holds: float32 lanes per register, and how many registers there are.
_AVX512, _AVX, _NEON, _SSE = (16, 32), (8, 16), (4, 32), (4, 16)


@functools.cache
def vectors() -> tuple[int, int]:
    """Float32 numbers per vector register, and the number of registers, of the processor that Numba compiles for.

    That is this machine's processor, unless NUMBA_CPU_NAME, NUMBA_CPU_FEATURES or NUMBA_ENABLE_AVX restrict it.
    """
    if platform.machine().lower() in ("arm64", "aarch64"):
        return _NEON
    codegen = cpu_target.target_context.codegen()
    features = codegen.magic_tuple()[2].split(",")
    if "+avx512f" in features:
        return _AVX512
    if "-avx512f" not in features or ("+avx" not in features and "-avx" not in features):
        return _widest_used(codegen)  # a processor given by name only: ask the compiler
    return _AVX if "+avx" in features else _SSE


def _widest_used(codegen) -> tuple[int, int]:
    """Compile the addition of two 16-lane vectors, and see which registers the machine code names."""
    vector = "<16 x float>"
    source = f"define {vector} @add({vector} %a) {{ %b = fadd {vector} %a, %a\n ret {vector} %b }}"
    assembly = codegen._tm.emit_assembly(llvm.parse_assembly(source))
    return _AVX512 if "%zmm" in assembly else _AVX if "%ymm" in assembly else _SSE


LANES, REGISTERS = vectors()


def target() -> str:
    """What machine code is made for here: another one may round otherwise."""
    triple, name, features = cpu_target.target_context.codegen().magic_tuple()
    mark = hashlib.sha256(features.encode()).hexdigest()[:8]
    came = "".join(f", some of it shipped for {place.target[1]}" for place in shipped.places())
    return f"{name} ({triple}), features {mark}, vectors of {LANES} floats{came}"
