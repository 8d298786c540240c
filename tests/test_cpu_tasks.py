"""Kernels do the same written down or at once, on one worker or several, alone or beside others."""

import pickle
import threading
from typing import NamedTuple

import numba
import numpy as np
import pytest

import tinyconv
from tinyconv import layers
from tinyconv.kernels import cpu
from tinyconv.kernels.cpu.runtime import ahead, tasks, workers
from tinyconv.kernels.cpu.runtime.tasks import floats, in_tasks, kernel, record, run
from tinyconv.training.data import Data


@kernel
def _add(task, a, b, amount):
    """A number for each task: what the line before left, and more."""
    a[task] += b[task] + np.float32(amount)


@kernel
def _rotate(task, a, b):
    """Each task reads what another task of the line before has written."""
    a[task] = b[(task + 1) % b.size] + np.float32(1)


@kernel
def _fail(task):
    if task == 3:
        raise IndexError


@in_tasks
def add(a, b, amount):
    run(_add, a.size, a, b, amount)


@in_tasks
def rotate(a, b):
    run(_rotate, a.size, a, b)


def test_lines_run_in_order_and_each_waits_for_the_one_before():
    size, times = 37, 400
    a, b = np.arange(size, dtype=np.float32), np.zeros(size, np.float32)
    program = record([(rotate, (b, a)), (rotate, (a, b))] * (times // 2))
    expected = (np.arange(size) + times) % size + times
    for _ in range(20):
        a[...] = np.arange(size)
        program()
        assert (a == expected).all()


def test_a_program_sees_what_its_arrays_hold_when_it_runs():
    a, b = np.zeros(5, np.float32), np.zeros(5, np.float32)
    program = record([(add, (a, b, 1))])
    for value in (1, 10):
        b[...] = value
        program()
    assert (a == 13).all()


def test_a_call_that_is_not_in_tasks_comes_in_its_turn():
    a, b, seen = np.zeros(5, np.float32), np.zeros(5, np.float32), []

    def look(array):
        seen.append(array.tolist())

    program = record([(look, (a,)), (add, (a, b, 1)), (add, (a, b, 2)), (look, (a,)), (add, (a, b, 4))])
    program()
    assert seen == [[0] * 5, [3] * 5]
    assert (a == 7).all()
    assert [type(part) is tasks.Table for part in program._parts] == [False, True, False, True]


class Sizes(NamedTuple):
    width: int
    height: int


def test_arguments_of_any_type_are_passed_as_they_are():
    @kernel
    def double(task, integers, bytes_, grid, doubles, sizes, pair, number):
        integers[task] *= 2
        bytes_[task] += np.int8(integers.size)
        grid[task // 2, task % 2, 1] = sizes.width * sizes.height + pair[1] + number
        doubles[task] += 0.5

    integers, bytes_, doubles = np.arange(4) << 40, np.zeros(4, np.int8), np.zeros(4)
    grid = np.zeros((2, 2, 3), np.float32)
    run(double, 4, integers, bytes_, grid, doubles, Sizes(3, 5), (7, 20), -1)
    assert integers.tolist() == [0, 2 << 40, 4 << 40, 6 << 40]
    assert bytes_.tolist() == [4] * 4
    assert doubles.tolist() == [0.5] * 4
    assert grid.tolist() == [[[0, 34, 0]] * 2] * 2


def test_one_kernel_takes_arrays_of_several_types():
    @kernel
    def fill(task, a, value):
        a[task] = value[0]

    for dtype in (np.int8, np.int32, np.float32, np.float64):
        a = np.zeros(3, dtype)
        run(fill, 3, a, floats(7.0))
        assert a.tolist() == [7, 7, 7]


@pytest.mark.parametrize("threads", [1, 2])
def test_a_kernel_that_fails_is_named_and_nobody_waits_for_it(threads):
    if threads > numba.config.NUMBA_NUM_THREADS:
        pytest.skip("one core only")
    a, b, before = np.zeros(8, np.float32), np.zeros(8, np.float32), numba.get_num_threads()

    @in_tasks
    def fail():
        run(_fail, 8)

    numba.set_num_threads(threads)
    try:
        with pytest.raises(IndexError, match="An index was out of bounds in the kernel _fail"):
            record([(add, (a, b, 1)), (fail, ()), (add, (a, b, 2))])()
        assert (a == 1).all()  # what comes behind it is not run
        add(a, b, 1)  # the next program is not affected
    finally:
        numba.set_num_threads(before)
    assert (a == 2).all()


@pytest.mark.parametrize(
    ("together", "alone", "chosen"),
    [(30_000, 20_000, True), (30_000, 29_000, False), (2 * tasks.SHORT, 1, None)],
    ids=["quicker alone", "hardly quicker", "lengthy"],
)
def test_a_short_table_is_tried_on_one_thread_and_goes_the_quicker_way(monkeypatch, together, alone, chosen):
    """On a clock of its own. Nothing is tried that takes long, and what was quicker may be so no longer."""
    times, now, asked = {False: together, True: alone}, [0], []

    def run_table(*arguments, alone=False):
        asked.append(alone)
        now[0] += times[alone]
        return 0

    monkeypatch.setattr(tasks, "run_table", run_table)
    monkeypatch.setattr(tasks.time, "perf_counter_ns", lambda: now[0])
    monkeypatch.setattr(tasks, "PERIOD", 5 * tasks.TRIALS)
    table = tasks.Table([])

    def ways():
        """How a period's runs went, of which as many as there are trials went the same way."""
        asked.clear()
        for _ in range(5 * tasks.TRIALS):
            table()
        found = [set(asked[i : i + tasks.TRIALS]) for i in range(0, len(asked), tasks.TRIALS)]
        return [way for (way,) in found]

    trials = [False, chosen is not None]
    assert ways() == [False, *trials, bool(chosen), bool(chosen)]
    times[True] = 2 * together
    assert ways() == [bool(chosen), *trials, False, False]


def test_a_program_runs_on_any_number_of_threads_even_if_it_changes():
    a, b, before = np.zeros(7, np.float32), np.zeros(7, np.float32), numba.get_num_threads()
    program = record([(add, (a, b, 1)), (add, (a[:1], b, 1)), (add, (a[:0], b, 1))])  # 7 tasks, 1 and none
    try:
        for run_ in range(1, 101):
            numba.set_num_threads(1 + run_ % numba.config.NUMBA_NUM_THREADS)
            program()
            assert a.tolist() == [2 * run_, *[run_] * 6]
    finally:
        numba.set_num_threads(before)


def test_another_process_compiles_what_it_is_given_into_the_cache():
    counters, mine = np.zeros(3, np.int64), np.zeros(5, np.float32)
    advance = (cpu.advance, (counters, 1, 32))
    record([advance])()
    (line,) = tasks.Program([advance]).write_down()[0]
    kernel, kinds = tasks._machine_code(line)
    path, _ = kernel._cache._locate(tasks._signature(kinds), kernel._cache._own(kernel.targetctx.codegen())[0])
    path.unlink()
    other = ahead._start([(add, (mine, mine, 1)), advance])  # of which the first is not the library's
    assert other.wait() == 0
    assert kernel._cache.holds(tasks._signature(kinds), kernel.targetctx)
    path.write_bytes(bytes(100))
    assert not kernel._cache.holds(tasks._signature(kinds), kernel.targetctx)  # so a damaged or stale file is noticed


def test_no_other_process_is_started_where_it_does_not_pay_or_there_is_none(monkeypatch):
    started = []
    monkeypatch.setattr(ahead, "_start", started.append)
    with ahead.second_process(["few"], ahead.FEWEST - 1):
        pass
    monkeypatch.setattr(ahead, "get_threads", lambda: 1)
    with ahead.second_process(["one core"], ahead.FEWEST):
        pass
    assert not started
    monkeypatch.undo()
    with monkeypatch.context() as m:
        m.setattr("sys.executable", "/usr/bin/blender")  # which would open a window
        assert ahead._start([]) is None
    with monkeypatch.context() as m:
        m.setattr("sys.frozen", True, raising=False)
        assert ahead._start([]) is None


def test_the_other_process_gets_shapes_not_data():
    data = np.ones((1000, 784), np.float32)
    written = ahead._without_data([(cpu.advance, (data, data, 3, (1, 2)))])
    assert len(written) < 1000
    ((function, (first, second, *rest)),) = pickle.loads(written)
    assert (function, rest) == (cpu.advance, [3, (1, 2)])
    assert first is second
    assert (first.shape, first.dtype) == (data.shape, data.dtype)


def test_what_an_address_cannot_say_is_refused():
    a = np.zeros((4, 6), np.float32)
    with pytest.raises(TypeError, match=r"kernel _add takes addresses\. Expected C-contiguous arrays"):
        add(a[:, ::2], a, 1)
    with pytest.raises(TypeError, match="cannot be interpreted as an integer"):
        run(_add, 4, a[0], a[1], 1.5)
    with pytest.raises(TypeError, match=f"_add takes {14 + workers.MOST} words of arguments. Expected at most"):
        run(_add, 4, a[0], a[1], (1,) * workers.MOST)


def test_an_error_while_recording_leaves_nothing_behind():
    a, b = np.zeros(3, np.float32), np.zeros(3, np.float32)

    @in_tasks
    def wrong(a):
        add(a, b, 1)
        raise ValueError("wrong")

    program = record([(wrong, (a,))])
    for _ in range(2):
        with pytest.raises(ValueError, match="wrong"):
            program()
    add(a, b, 1)
    assert (a == 1).all()


def test_python_threads_run_programs_beside_each_other():
    """Each has a program of its own; recording in one does not catch what another runs."""
    wrong = []

    def work(seed):
        a, b = np.zeros(50, np.float32), np.full(50, seed, np.float32)
        for round_ in range(30):
            record([(add, (a, b, 1))] * 10)()
            if not (a == 10 * (seed + 1) * (round_ + 1)).all():
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def every_step(model, x, y):
    """The program of a model's training step, after a run."""
    model.fit(x, y, batch_size=len(x), verbose=0)
    trainer = model._trainer
    program = trainer.pass_over(Data.load(trainer.state, (x,), (y,)), len(x), training=True).programs[len(x)]
    trainer.begin(step=1)
    program()
    return program


def image(*rest):
    convolutions = [layers.Conv2D(4, 3, activation="relu"), layers.MaxPooling2D(2), layers.Conv2D(4, 3)]
    return tinyconv.Sequential([tinyconv.Input((12, 12, 1)), *convolutions, *rest])


def network(loss):
    """The top of a network for that loss: between them they have all kinds of layers."""
    if loss == "categorical_crossentropy":
        return [layers.Dropout(0.5), layers.Flatten(), layers.Dense(10, activation="softmax")]
    if loss == "binary_crossentropy":
        return [layers.Flatten(), layers.Dense(10), layers.Activation("sigmoid")]
    return [
        layers.BatchNormalization(),
        layers.Activation("relu"),
        layers.MaxPooling2D(2),
        layers.Activation("tanh"),
        layers.AveragePooling2D(2, padding="same"),
        layers.Activation("elu"),
        layers.GlobalAveragePooling2D(),
        layers.Dense(10, activation="leaky_relu", kernel_regularizer="l2"),
    ]


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("loss", ["categorical_crossentropy", "binary_crossentropy", "mse"])
def test_a_whole_training_step_is_one_table(loss, optimizer):
    x, y = np.zeros((4, 12, 12, 1), np.float32), np.eye(4, 10, dtype=np.float32)
    model = image(*network(loss))
    model.compile(loss=loss, optimizer=optimizer, metrics=["accuracy"], backend="cpu")
    assert [type(part) for part in every_step(model, x, y)._parts] == [tasks.Table]


def test_every_kernel_works_in_tasks():
    others = [name for name in cpu.__all__ if not hasattr(getattr(cpu, name), "in_tasks")]
    assert others == [name for name in cpu.__all__ if name.endswith("_workspace")]
