"""Every peer runs in a process of its own, which is stopped while another one has its turn.

So thread pools cannot compete: many of them *spin* when they have nothing to do, and would take the processor from the
peer that is being timed. A stopped process cannot, whatever its settings. Each peer keeps its default settings, except
for the number of threads, and KEEP.

The parent holds :class:`Worker` objects; ``python -m benchmarks.worker NAME THREADS`` is the other end. They speak
pickled (method, arguments) and (succeeded, result) over pipes.
"""

import ctypes
import importlib
import os
import pickle
import signal
import subprocess
import sys
import traceback
from pathlib import Path
from types import TracebackType
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
# Let glibc keep freed memory. By default it returns large arrays to the system and asks for them again in every step:
# with this, an epoch of PyTorch takes 12 s instead of 20 s on the machine where this was found.
KEEP = {"MALLOC_TRIM_THRESHOLD_": str(2**32), "MALLOC_MMAP_THRESHOLD_": str(2**30)}
CAN_STOP = hasattr(signal, "SIGSTOP")


class Worker:
    """A peer in its own process. Any method of the peer can be called as ``worker.call("method", ...)``.

    Args:
        peer: "module:Class" below ``benchmarks.peers``.
        threads: how many threads it may use; it is also confined to so many processors.
        keep_memory: whether to set KEEP.
        arguments: keyword arguments for its class.
    """

    def __init__(
        self,
        peer: str,
        threads: int,
        keep_memory: bool = True,
        arguments: dict[str, Any] | None = None,
    ) -> None:
        limits = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))
        quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1", "JAX_PLATFORMS": "cpu"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.worker", peer, str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            env={**os.environ, **limits, **quiet, **(KEEP if keep_memory else {})},
        )
        self.running = True
        self._receive(self._send(arguments or {}))

    def call(self, method: str, /, **arguments: Any) -> Any:
        """Wake the peer, let it do one thing, and stop it again."""
        self._signal("SIGCONT", True)
        try:
            return self._receive(self._send((method, arguments)))
        finally:
            self._signal("SIGSTOP", False)

    def close(self) -> None:
        self._signal("SIGCONT", True)
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _signal(self, name: str, running: bool) -> None:
        if CAN_STOP and self.running != running and self.process.poll() is None:
            self.process.send_signal(getattr(signal, name))
            self.running = running

    def _send(self, message: Any) -> None:
        assert self.process.stdin is not None
        pickle.dump(message, self.process.stdin)
        self.process.stdin.flush()

    def _receive(self, _: None) -> Any:
        assert self.process.stdout is not None
        try:
            succeeded, result = pickle.load(self.process.stdout)
        except EOFError:
            raise RuntimeError(f"The process of a peer ended: exit code {self.process.wait()}.") from None
        if not succeeded:
            raise RuntimeError(f"A peer failed:\n{result}")
        return result


def end_with_parent() -> None:
    """Let Linux kill this process with its parent: a stopped one would not see that the pipe is closed."""
    if sys.platform == "linux":
        parent_death = 1
        ctypes.CDLL(None).prctl(parent_death, signal.SIGKILL)


def serve(peer: str, threads: int) -> None:
    """The other end: make the peer, and do what the parent asks until it closes the pipe."""
    end_with_parent()
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever the frameworks print must not get into the answers
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    target: Any = None
    while True:
        try:
            message = pickle.load(requests)
        except EOFError:
            return
        try:
            if target is None:
                module, _, name = peer.partition(":")
                target = getattr(importlib.import_module(f"benchmarks.peers.{module}"), name)(threads, **message)
                result = None
            else:
                method, arguments = message
                result = getattr(target, method)(**arguments)
            answer = (True, result)
        except BaseException:
            answer = (False, traceback.format_exc())
        pickle.dump(answer, answers)
        answers.flush()


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]))
