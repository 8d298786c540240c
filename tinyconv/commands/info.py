"""``tinyconv info``: what this installation is and what it runs on."""

import argparse
import platform
from pathlib import Path

import tinyconv
from tinyconv.commands.common import Result, say


def add(command: argparse.ArgumentParser) -> None:
    """It has no options of its own."""


def run(options: argparse.Namespace) -> Result:
    from importlib.metadata import version

    from tinyconv.kernels.cpu.registers import host
    from tinyconv.kernels.cpu.runtime import jit, shipped, threads

    usable, gpu = _gpu()
    folder = jit.cache_folder()
    files = list(folder.glob("*.nbc")) if folder else []
    result: Result = {
        "tinyconv": tinyconv.__version__,
        "python": platform.python_version(),
        **{name: version(name) for name in ("numpy", "numba", "llvmlite")},
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_name(),
        "lanes": host.LANES,
        "registers": host.REGISTERS,
        "threads": threads.get_threads(),
        "threading_layer": threads.threading_layer(),
        "gpu": gpu,
        "gpu_usable": usable,
        "shipped": sum(len(list(place.folder.glob("*.nbc"))) for place in shipped.places()),
        "cache": str(folder) if folder else None,
        "cache_files": len(files),
        "cache_bytes": sum(file.stat().st_size for file in files),
    }
    notes = {
        "lanes": "float32 numbers per vector register",
        "registers": "vector registers",
        "shipped": "compiled kernels that came with the installation",
    }
    for name, value in result.items():
        note = f"  ({notes[name]})" if notes.get(name) else ""
        say(options, f"{name.replace('_', ' '):<16} {value}{note}")
    return result


def _gpu() -> tuple[bool, str]:
    try:
        from tinyconv.kernels.cuda.runtime import device

        return device.available()
    except ImportError as error:
        return False, f"not usable: {error}"


def _cpu_name() -> str:
    """The processor as the system calls it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
