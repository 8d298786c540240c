"""Every CUDA kernel, then a short training, under compute-sanitizer: memcheck, racecheck, initcheck and synccheck.

    python tests/sanitize.py [tool ...]

Needs a GPU and compute-sanitizer (in NVIDIA's CUDA toolkit). Prints each tool's verdict, and what it found; ends with
code 1 if a tool found something, 2 if it cannot run here.
"""

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
TOOLS = "memcheck", "racecheck", "initcheck", "synccheck"
FOUND = 9  # the exit code asked of the sanitizer when it finds something
KERNELS = "import pytest, sys; sys.exit(pytest.main(['-q', '-p', 'no:cacheprovider', '--noconftest', *sys.argv[1:]]))"
FILES = "tests/cuda_sim/families.py", "tests/cuda_sim/convolutions.py"
TRAINING = "from tests.test_gpu import weights_after; weights_after(epochs=1, samples=200)"


def command(tool: str, code: str, *arguments: str) -> list[str]:
    """How a piece of Python runs under a tool."""
    options = "--error-exitcode", str(FOUND), "--print-limit", "20"
    return ["compute-sanitizer", "--tool", tool, *options, sys.executable, "-c", code, *arguments]


def main(tools: list[str]) -> int:
    unknown = [tool for tool in tools if tool not in TOOLS]
    if unknown:
        print(f"Unknown tool. Expected {', '.join(TOOLS)}. Received: {', '.join(unknown)}.", file=sys.stderr)
        return 2
    if shutil.which("compute-sanitizer") is None:
        print("compute-sanitizer is not installed. Fix: install NVIDIA's CUDA toolkit.", file=sys.stderr)
        return 2
    found = False
    for tool in tools or TOOLS:
        for name, code, arguments in (("kernels", KERNELS, FILES), ("training", TRAINING, ())):
            done = subprocess.run(
                command(tool, code, *arguments), cwd=ROOT, capture_output=True, text=True, check=False
            )
            print(f"{tool}, {name}: {'nothing found' if done.returncode == 0 else 'FAILED'}", flush=True)
            if done.returncode:
                found = True
                print(done.stdout[-4000:] + done.stderr[-4000:])
    return int(found)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
