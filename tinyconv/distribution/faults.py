"""How a job ends when one of its ranks does.

* An exception that nobody catches is printed by its rank, and ends all.
* A rank that leaves early, by ``sys.exit`` say, tells the others, who would wait for it: see :meth:`Ranks.wait`.
* When a rank is killed, MPI kills the rest, and says only a process number. So every rank has a small shell beside it,
  which outlives it and sees by the end of a pipe that it is gone: the first one of a machine to see that says so, where
  mpiexec writes its messages, as it no longer hands on those of its ranks.
"""

import atexit
import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
import traceback
import uuid
from pathlib import Path
from typing import Any

from tinyconv.distribution.ranks import GONE, NAP, PLACE, RankError, Ranks

SHELL = "/bin/sh"
WATCH = """
read -r bye
[ -n "$bye" ] && exit
set -C
{ true >"$1"; } 2>/dev/null && printf '\\n%s\\n' "$2" >&2
exec 2>&-
sleep 2
rm -f "$1"
"""
HEAD_START = 0.3  # seconds that rank 0 has for its message: an error of all of them is said once
HEARSAY = 3.0  # seconds that the rank that went wrong has


class Watch:
    """What looks after a rank, from the outside and from the inside. ``mark``: a file that is made by whoever says
    first, on this machine, why the job ends. (By the shell itself, not by a program that it would have to start: MPI
    kills the other ranks at once, and their shells are not far behind.)"""

    def __init__(self, ranks: Ranks) -> None:
        self.ranks = ranks
        self.mark = Path(tempfile.gettempdir(), ranks.first(f"tinyconv-{uuid.uuid4().hex}"))
        self.pipe = self._start() if ranks.size > 1 and os.path.exists(SHELL) else None
        self._excepthook = sys.excepthook
        sys.excepthook = self._failed
        atexit.register(self._leave)

    def _start(self) -> int:
        ranks = self.ranks
        there, here = os.pipe()
        line = (
            f"Rank {ranks.rank} of {ranks.size} (process {os.getpid()} on {socket.gethostname()}) was killed, which "
            "ends the job. Fix: start it again; with BackupAndRestore among the callbacks it goes on where it was."
        )
        command = [SHELL, "-c", WATCH, SHELL, str(self.mark), line]
        out = _error_stream()
        subprocess.Popen(command, stdin=there, stdout=subprocess.DEVNULL, stderr=out, start_new_session=True)
        for end in (there, *([] if out is None else [out])):
            os.close(end)
        return here

    def _failed(self, kind: type[BaseException], error: BaseException, trace: Any) -> None:
        """An exception ends the program."""
        ranks = self.ranks
        if ranks.size > 1:
            time.sleep(HEARSAY if isinstance(error, RankError) else HEAD_START if ranks.rank else 0)
            text = "".join(traceback.format_exception(kind, error, trace))
            print(f"Rank {ranks.rank} of {ranks.size} ends the job:\n{text}", file=sys.stderr, end="", flush=True)
            with contextlib.suppress(OSError):
                self.mark.touch()
            ranks.comm.Abort(1)
        self._excepthook(kind, error, trace)

    def _leave(self) -> None:
        """The program ends, perhaps earlier than elsewhere. MPI waits for all to end anyway, and some kinds of it
        complain of messages that nobody has taken."""
        if self.pipe is not None:
            os.write(self.pipe, b"bye\n")
        comm = self.ranks.comm
        self._notes = [comm.Isend(b"", rank, GONE) for rank in self.ranks.others]
        for rank in self.ranks.others:
            while not comm.Iprobe(rank, GONE):
                time.sleep(NAP)
            comm.Recv(bytearray(), rank, GONE)
            while comm.Iprobe(rank, PLACE):
                comm.recv(source=rank, tag=PLACE)


def _error_stream() -> int | None:
    """Where mpiexec writes its messages, if it runs on this machine; opened anew, so that it lasts."""
    process = os.getpid()
    for _ in range(2):  # it is this process's parent, or its parent's
        with contextlib.suppress(OSError, ValueError):
            process = int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
            if Path(f"/proc/{process}/comm").read_text().startswith(("mpiexec", "mpirun", "prterun")):
                return os.open(f"/proc/{process}/fd/2", os.O_WRONLY | os.O_APPEND)
    return None
