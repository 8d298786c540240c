"""How tests start a process that they will send Ctrl-C."""

import functools
import os
import signal

# A shell lets what it runs in the background ignore Ctrl-C, and so does all that this starts: the tests, too.
HEEDING = {} if os.name == "nt" else {"preexec_fn": functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)}
