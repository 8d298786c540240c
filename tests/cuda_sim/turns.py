"""Let the blocks of Numba's simulator wait without polling, which takes about a third of its time.

Its manager asks all threads in turn whether they have reached the barrier, and holds Python's lock meanwhile. Here a
thread says when it reaches the barrier or ends, and the manager sleeps until all of them have.
"""

import queue
import threading

import numpy as np
from numba.cuda.simulator import kernel as simulated


class Thread(simulated.BlockThread):
    """One thread of a block."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.gate = threading.Lock()
        self.gate.acquire()

    def run(self):
        super().run()
        self._manager.arrived.put(None)


def syncthreads(thread):
    """The barrier."""
    thread.syncthreads_blocked = True
    thread._manager.arrived.put(None)
    thread.gate.acquire()
    if thread.abort:
        raise RuntimeError("another thread of the block has failed")


def run(manager, grid_point, *arguments):
    """Run one block."""
    manager.arrived = queue.SimpleQueue()
    points = np.ndindex(*manager._block_dim)

    def body():
        manager._f(*arguments)

    live = [Thread(body, manager, grid_point, point, manager._debug) for point in points]
    for thread in live:
        thread.start()
    while live:
        for _ in live:
            manager.arrived.get()
        failed = [thread.exception for thread in live if thread.exception]
        live = [thread for thread in live if thread.syncthreads_blocked]
        for thread in live:
            thread.syncthreads_blocked, thread.abort = False, bool(failed)
            thread.gate.release()
        if failed:
            raise failed[0][0].with_traceback(failed[0][1])


def install():
    """Run every block so from now on."""
    simulated.BlockThread.syncthreads = syncthreads
    simulated.BlockManager.run = run
