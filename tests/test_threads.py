"""Several threads, one model: whatever they do at once gives what they would have given one after the other."""

import os
import subprocess
import sys
import threading

import numpy as np
import pytest

import tinyconv
from tests.strategies import few, scaled
from tinyconv.plan.locks import ModelLock

PROGRAM = """
import os, sys, tempfile, threading
import numpy as np
import tinyconv

trials = int(sys.argv[1])
layers = tinyconv.layers
rng = np.random.default_rng(0)
x, y = rng.random((20, 8, 8, 1), np.float32), rng.integers(0, 3, 20)


def network():
    tinyconv.utils.set_random_seed(1)
    stack = [layers.Conv2D(4, 3, activation="relu"), layers.BatchNormalization(), layers.Flatten()]
    model = tinyconv.Sequential([tinyconv.Input((8, 8, 1)), *stack, layers.Dense(3, "softmax")])
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"], backend=sys.argv[2])
    return model


def bits(arrays):
    return b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)


# One of the eight sets weights, two train: every order of these gives one of a few states, each with its predictions.
def orders(model, actions, states):
    states[bits(model.get_weights())] = (bits([model.predict(x)]), tuple(model.evaluate(x, y, verbose=0)))
    for name in sorted(set(actions)):
        rest = list(actions)
        rest.remove(name)
        import copy
        twin = copy.deepcopy(model)
        twin.train_on_batch(x, y) if name == "train" else twin.set_weights(fresh)
        orders(twin, rest, states)


fresh = [0.5 * array for array in network().get_weights()]
states = {}
orders(network(), ["set", "train", "train"], states)
predictions = {prediction for prediction, _ in states.values()}
losses = {loss for _, loss in states.values()}
folder = tempfile.mkdtemp()
wrong = []
for trial in range(trials):
    model = network()
    barrier = threading.Barrier(8)
    path = os.path.join(folder, "m.safetensors")

    def run(action):
        barrier.wait()
        try:
            action()
        except BaseException as error:
            wrong.append(f"{trial}: {error!r}")

    def check(kind, value, allowed):
        if value not in allowed:
            wrong.append(f"{trial}: {kind} that no order gives")

    actions = [
        lambda: check("prediction", bits([model.predict(x)]), predictions),
        lambda: check("prediction", bits([model(x)]), predictions),
        lambda: check("weights", bits(model.get_weights()), states),
        lambda: check("evaluation", tuple(model.evaluate(x, y, verbose=0)), losses),
        lambda: model.set_weights(fresh),
        lambda: model.save_weights(path),
        lambda: model.train_on_batch(x, y),
        lambda: model.train_on_batch(x, y),
    ]
    threads = [threading.Thread(target=run, args=(action,)) for action in actions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    check("final weights", bits(model.get_weights()), states)
    loaded = network()
    loaded.load_weights(path)
    check("saved weights", bits(loaded.get_weights()), states)
print(len(states), "states")
print(wrong[:3], file=sys.stderr)
sys.exit(bool(wrong))
"""


@pytest.mark.parametrize("layer", few(["tbb", "omp", "workqueue", "reference"]))
def test_eight_threads_on_a_fresh_model(layer):
    backend = "reference" if layer == "reference" else "cpu"
    environment = {**os.environ} if layer == "reference" else {**os.environ, "NUMBA_THREADING_LAYER": layer}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(scaled(60 if layer == "reference" else 200)), backend],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout.split()[0]) >= 6  # the orders differ, or the test could not fail


def test_others_see_whole_steps_of_a_run():
    """Weights read beside ``fit`` are those after some step, and nobody waits for the run's end."""
    rng = np.random.default_rng(0)
    x, y = rng.random((64, 6)).astype(np.float32), rng.random((64, 3)).astype(np.float32)

    def network():
        tinyconv.utils.set_random_seed(3)
        model = tinyconv.Sequential([tinyconv.Input((6,)), tinyconv.layers.Dense(5), tinyconv.layers.Dense(3)])
        model.compile("adam", "mse", backend="reference")
        return model

    known = set()

    class Note(tinyconv.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            known.add(b"".join(array.tobytes() for array in self.model.get_weights()))

    alone = network()
    known.add(b"".join(array.tobytes() for array in alone.get_weights()))
    alone.fit(x, y, batch_size=8, epochs=20, verbose=0, callbacks=Note())

    model = network()
    seen, begun, ended = [], threading.Event(), threading.Event()

    class Begin(tinyconv.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            begun.set()
            if epoch == 10:  # a turn of the others in the middle of the run, whatever the machine's load
                assert looked.wait(60)

    looked = threading.Event()

    def look():
        begun.wait(60)
        while not ended.is_set():
            seen.append(b"".join(array.tobytes() for array in model.get_weights()))
            model.predict(x)
            looked.set()

    watcher = threading.Thread(target=look)
    watcher.start()
    model.fit(x, y, batch_size=8, epochs=20, verbose=0, callbacks=Begin())
    ended.set()
    watcher.join()
    assert seen
    assert set(seen) <= known
    assert not any((a != b).any() for a, b in zip(model.get_weights(), alone.get_weights(), strict=True))


def test_a_lock_is_fair_and_can_be_left_for_a_while():
    lock, order = ModelLock(), []
    assert lock.acquire()
    assert lock.acquire()

    def enter(name):
        with lock:
            order.append(name)

    threads = []
    for name in range(4):
        threads.append(threading.Thread(target=enter, args=(name,)))
        threads[-1].start()
        while len(lock._waiting) < name + 1:
            pass
    assert lock.is_wanted
    assert order == []
    with lock.released():
        for thread in threads:
            thread.join()
    assert order == [0, 1, 2, 3]
    assert not lock.is_wanted
    lock.release()
    lock.release()
    with lock:
        pass


def test_whoever_runs_out_of_patience_leaves_the_queue():
    lock, results = ModelLock(), []
    with lock:
        thread = threading.Thread(target=lambda: results.append(lock.acquire(timeout=0.01)))
        thread.start()
        thread.join()
        assert results == [False]
        assert not lock.is_wanted
    assert lock.acquire(timeout=0)
    lock.release()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_has_locks_of_its_own():
    program = """
import os, sys, threading
import numpy as np, tinyconv
model = tinyconv.Sequential([tinyconv.Input((6,)), tinyconv.layers.Dense(3)])
model.compile("sgd", "mse", backend="reference")
x = np.ones((4, 6), np.float32)
expected = model.predict(x)
stop = threading.Event()
def busy():
    while not stop.is_set():
        model.predict(x)
thread = threading.Thread(target=busy)
thread.start()
bad = 0
for _ in range(20):
    child = os.fork()
    if not child:
        os._exit(0 if (model.predict(x) == expected).all() else 1)
    bad += os.waitpid(child, 0)[1] != 0
stop.set()
thread.join()
with model._lock:
    child = os.fork()
    if not child:
        model.predict(x)
        model._lock.release()
        os._exit(0 if model._lock.acquire(timeout=0) else 1)
    bad += os.waitpid(child, 0)[1] != 0
sys.exit(bad)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize(
    ("how", "backend"),
    few([("spawn", "reference"), ("fork", "reference"), ("fork", "cpu"), ("joblib", "cpu"), ("forkserver", "cpu")]),
)
def test_a_model_travels_to_another_process(how, backend):
    """As an argument, and back as a result: trained there, it is what it would have been here."""
    if how == "fork" and not hasattr(os, "fork"):
        pytest.skip("needs fork")
    program = """
import multiprocessing, sys
from concurrent.futures import ProcessPoolExecutor
import numpy as np, tinyconv
how, backend = sys.argv[1:]
rng = np.random.default_rng(0)
x, y = rng.random((8, 6), np.float32), rng.random((8, 3), np.float32)
model = tinyconv.Sequential([tinyconv.Input((6,)), tinyconv.layers.Dense(5, "relu"), tinyconv.layers.Dense(3)])
model.compile("adam", "mse", backend=backend)
model.train_on_batch(x, y)
calls = [(tinyconv.Sequential.predict, model, x), (tinyconv.Sequential.train_on_batch, model, x, y)]
if how == "joblib":
    import joblib
    there = joblib.Parallel(2, timeout=100)(joblib.delayed(call[0])(*call[1:]) for call in calls)
else:
    with ProcessPoolExecutor(1, multiprocessing.get_context(how)) as pool:
        there = [pool.submit(*call).result(100) for call in calls]
assert (there[0] == model.predict(x)).all()
assert there[1] == model.train_on_batch(x, y)
"""
    command = [sys.executable, "-c", program, how, backend]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
