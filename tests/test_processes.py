"""Threads and processes of Python's: whatever starts or forks them, kernels compute the same bits or say why not.

Each test is a program of its own that has a limited time: none may hang the suite.
"""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tinyconv.kernels.cpu.runtime import threads

ROOT = Path(__file__).parent.parent
has_omp = pytest.mark.skipif(not threads._importable("omppool"), reason="no OpenMP here")
LAYERS = [
    pytest.param("tbb", marks=pytest.mark.skipif(not threads._load_tbb(), reason="no TBB here")),
    pytest.param("omp", marks=[has_omp, pytest.mark.long]),
    pytest.param("workqueue", marks=pytest.mark.long),
]
forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")

KERNELS = """
import hashlib, os, sys, threading
import numpy as np
from tinyconv.kernels.cpu import activation, data; from tinyconv.kernels.cpu.runtime import threads

x = np.random.default_rng(0).standard_normal(60000).astype(np.float32)

def digest():
    "Of what two kernels compute."
    out = np.zeros_like(x)
    activation.activation_forward(out, x, "sigmoid", ())
    found = hashlib.sha256(out)
    activation.softmax_forward(out.reshape(-1, 10), x.reshape(-1, 10))
    found.update(out)
    return found.hexdigest()

def child(depth=1, leave=os._exit):
    "What a forked child says; with a grandchild, and so on, if it is deeper."
    process = os.fork()
    if process == 0:
        right = digest() == expected and (depth == 1 or child(depth - 1) == 7)
        leave(7 if right else 1)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])

expected = digest()
"""

MODEL = """
import multiprocessing, os, sys
import numpy as np
import tinyconv

x = np.random.default_rng(0).random((64, 8, 8, 1), np.float32)

def answer(seed):
    "What a model, made here, predicts after a step of training."
    tinyconv.utils.set_random_seed(seed)
    model = tinyconv.Sequential([tinyconv.Input((8, 8, 1)), tinyconv.layers.Flatten(), tinyconv.layers.Dense(3)])
    model.compile("sgd", "mse", backend="cpu")
    model.fit(x, np.ones((64, 3), np.float32), verbose=0)
    return model.predict(x, verbose=0).tobytes()
"""

POOL = """
if __name__ == "__main__":
    expected = [answer(seed) for seed in range(3)]
    with multiprocessing.get_context({method!r}).Pool(2, maxtasksperchild=2) as pool:
        print(pool.map_async(answer, range(3), chunksize=1).get(100) == expected)
"""


def run(program, tmp_path, layer=None, timeout=120):
    """Run a program from a file, as spawned processes must find it again; what it prints."""
    file = tmp_path / "program.py"
    file.write_text(textwrap.dedent(program))
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    settings = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "NUMBA_NUM_THREADS": "2"}
    if layer:
        settings["NUMBA_THREADING_LAYER"] = layer
    done = subprocess.run([sys.executable, str(file)], capture_output=True, text=True, env=settings, timeout=timeout)
    assert done.returncode == 0, done.stderr
    return [line for line in done.stdout.splitlines() if line and not line.startswith("Unable to join threads")]


@forks
@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.long
def test_forked_children_and_theirs_compute_the_same_bits(layer, tmp_path):
    """However many Python threads are in kernels, whichever forks, and however the child leaves."""
    program = """
print(child(), child(2), child(leave=sys.exit))
stop = []

def work():
    while not stop:
        assert digest() == expected

def fork():
    found.append(child())

found, busy = [], [threading.Thread(target=work) for _ in range(2)]
for thread in busy: thread.start()
print(*[child() for _ in range(3)], child(2), child(leave=sys.exit))
forker = threading.Thread(target=fork)
forker.start(), forker.join()
stop.append(True)
for thread in busy: thread.join()
print(*found, child(), digest() == expected, threads.threading_layer())
"""
    assert run(KERNELS + program, tmp_path, layer) == ["7 7 7", "7 7 7 7 7", f"7 7 True {layer}"]


@forks
@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.long
def test_a_fork_waits_for_the_compiler(layer, tmp_path):
    """A child forked while another thread compiles compiles too: no lock is held by a thread that it has not."""
    program = """
from tinyconv.kernels.cpu.runtime import jit

@jit.jit
def plus(x):
    return x + 1

compiling = threading.Event()
jit.cache_folder = lambda: None
inside = []

def compile():
    with jit.compile_watch(lambda: (inside.append(1), compiling.set()), lambda *_: inside.clear()):
        plus(1)

thread = threading.Thread(target=compile)
thread.start()
compiling.wait()
process = os.fork()
if process == 0:
    os._exit(7 if not inside and plus(1.5) == 2.5 and digest() == expected else 1)
print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]))
thread.join()
"""
    assert run(KERNELS + program, tmp_path, layer) == ["7"]


@pytest.mark.long
def test_tbb_keeps_its_threads_in_the_only_thread_s_child(tmp_path):
    if threads.LAYER != "tbb" or not hasattr(os, "fork"):
        pytest.skip("only TBB can")
    program = """
def count():
    process = os.fork()
    if process == 0:
        os._exit(threads.get_threads() if digest() == expected else 9)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])

alone = count()
stop = threading.Event()
threading.Thread(target=stop.wait).start()
print(alone, count())
stop.set()
"""
    assert run(KERNELS + program, tmp_path, "tbb") == ["2 1"]


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.long
def test_several_python_threads_call_and_compile_different_kernels_at_once(layer, tmp_path):
    """Each with its own number of threads, from the first call on."""
    program = """
from tinyconv.kernels.cpu.runtime import jit
jit.cache_folder = lambda: None  # so that all compile

kinds = [("tanh", ()), ("elu", (1.0,)), ("relu", ()), ("sigmoid", ())]
found = [[] for _ in range(8)]
gate = threading.Barrier(8)

def work(number):
    threads.set_threads(1 + number % 2)
    gate.wait()
    for turn in range(6):
        out = np.zeros_like(x)
        which = (number + turn) % 4
        activation.activation_forward(out, x, *kinds[which])
        found[which].append(hashlib.sha256(out).hexdigest())
        assert threads.get_threads() == 1 + number % 2

workers = [threading.Thread(target=work, args=(number,)) for number in range(8)]
for worker in workers: worker.start()
for worker in workers: worker.join()
print(*[len(set(one)) for one in found[:4]], sum(map(len, found)))
"""
    assert run(KERNELS + program, tmp_path, layer) == ["1 1 1 1 48"]


@forks
@pytest.mark.parametrize("layer", LAYERS)
def test_a_pool_of_forked_processes_computes_the_same(layer, tmp_path):
    assert run(MODEL + POOL.format(method="fork"), tmp_path, layer) == ["True"]


@pytest.mark.parametrize("method", [pytest.param("forkserver", marks=forks), "spawn"])
@pytest.mark.long
def test_a_pool_of_fresh_processes_computes_the_same(method, tmp_path):
    assert run(MODEL + POOL.format(method=method), tmp_path) == ["True"]


@pytest.mark.long
def test_joblib_computes_the_same(tmp_path):
    pytest.importorskip("joblib")
    program = """
if __name__ == "__main__":
    import joblib
    expected = [answer(seed) for seed in range(3)]
    for backend in ("loky", "multiprocessing"):
        with joblib.parallel_config(backend, n_jobs=2):
            print(joblib.Parallel(timeout=100)(joblib.delayed(answer)(seed) for seed in range(3)) == expected)
"""
    assert run(MODEL + program, tmp_path) == ["True", "True"]


def test_after_ctrl_c_in_the_compiler_everything_works(tmp_path):
    """At each function of those that the kernel calls in turn: begun, and done."""
    program = """
from tinyconv.kernels.cpu.runtime import jit
jit.cache_folder.cache_clear()
jit.SETTINGS.CACHE_DIR = sys.argv[0] + ".cache"

def interrupt(*_):
    raise KeyboardInterrupt

@jit.jit
def inner(x): return x + 1

@jit.jit
def outer(x): return 2 * inner(x)

interrupted = 0
for watching in ((interrupt, None), (None, interrupt)):
    for value in (1, 1.5, 2j):
        try:
            with jit.compile_watch(*watching):
                outer(value)
        except KeyboardInterrupt:
            interrupted += 1
        assert outer(value) == 2 * (value + 1), value
names = os.listdir(jit.cache_folder())
print(interrupted, any(name.startswith("tmp") for name in names), digest() == expected)
"""
    assert run(KERNELS + program, tmp_path) == ["3 False True"]
