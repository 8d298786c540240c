"""Kernels in tasks: written down or at once, on one worker or several, alone or beside others, they do the same."""

import threading

import numba
import numpy as np
import pytest

import tinyconv
from tinyconv import layers
from tinyconv.kernels import cpu
from tinyconv.kernels.cpu.runtime import tasks
from tinyconv.kernels.cpu.runtime.tasks import NOTHING, in_tasks, kernel, record, run
from tinyconv.kernels.cpu.runtime.views import same_memory
from tinyconv.training.data import Data

FLAT = np.zeros(0, np.int64)


@kernel
def _add(task, a, b, c, work, numbers):
    """A number for each task: what the line before left, and more."""
    a[task] += b[task] + np.float32(numbers[0])


@kernel
def _rotate(task, a, b, _, __, numbers):
    """Each task reads what another task of the line before has written."""
    a[task] = b[(task + 1) % b.size] + np.float32(1)


@kernel
def _fail(task, a, _, __, ___, numbers):
    if task == 3:
        raise IndexError


@in_tasks
def add(a, b, amount):
    run(_add, a.size, a, b, NOTHING, NOTHING, np.array([amount]))


@in_tasks
def rotate(a, b):
    run(_rotate, a.size, a, b, NOTHING, NOTHING, FLAT)


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


def test_arrays_of_any_type_are_passed_as_they_are():
    @kernel
    def double(task, a, b, c, work, numbers):
        integers, floats = same_memory(a, np.int64), same_memory(work, np.float64)
        integers[task] *= 2
        c[task] += np.int8(integers.size)
        floats[task] += 0.5

    integers, bytes_, floats = np.arange(4) << 40, np.zeros(4, np.int8), np.zeros(4)
    run(double, 4, integers, NOTHING, bytes_, floats, FLAT)
    assert integers.tolist() == [0, 2 << 40, 4 << 40, 6 << 40]
    assert bytes_.tolist() == [4] * 4
    assert floats.tolist() == [0.5] * 4


@pytest.mark.parametrize("workers", [1, 2])
def test_a_kernel_that_fails_is_named_and_nobody_waits_for_it(workers):
    if workers > numba.config.NUMBA_NUM_THREADS:
        pytest.skip("one core only")
    a, b, before = np.zeros(8, np.float32), np.zeros(8, np.float32), numba.get_num_threads()

    @in_tasks
    def fail(a):
        run(_fail, 8, a, NOTHING, NOTHING, NOTHING, FLAT)

    numba.set_num_threads(workers)
    try:
        with pytest.raises(IndexError, match="An index was out of bounds in the kernel _fail"):
            record([(add, (a, b, 1)), (fail, (a,)), (add, (a, b, 2))])()
        assert (a == 1).all()  # what comes behind it is not run
        add(a, b, 1)  # the next program is not affected
    finally:
        numba.set_num_threads(before)
    assert (a == 2).all()


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


def test_what_an_address_cannot_say_is_refused():
    a = np.zeros((4, 6), np.float32)
    with pytest.raises(TypeError, match=r"kernel _add takes addresses\. Expected C-contiguous arrays"):
        add(a[:, ::2], a, 1)
    with pytest.raises(TypeError, match=r"and numbers of int64\. Received .*float64"):
        run(_add, 4, a, a, NOTHING, NOTHING, np.array([1.0]))


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


def test_a_whole_training_step_is_one_table():
    x, y = np.zeros((4, 12, 12, 1), np.float32), np.eye(4, 10, dtype=np.float32)
    convolutions = [layers.Conv2D(4, 3, activation="relu"), layers.MaxPooling2D(2), layers.Conv2D(4, 3)]
    rest = [layers.Flatten(), layers.Dropout(0.5), layers.Dense(10, activation="softmax")]
    model = tinyconv.Sequential([tinyconv.Input((12, 12, 1)), *convolutions, *rest])
    model.compile(loss="categorical_crossentropy", optimizer="adam", metrics=["accuracy"], backend="cpu")
    model.fit(x, y, batch_size=4, verbose=0)
    trainer = model._trainer
    loop = trainer.pass_over(Data.load(trainer.state, x, y), 4, training=True)
    program = loop.programs[4]
    program()
    assert [type(part) for part in program._parts] == [tasks.Table]
    marked = [name for name in cpu.__all__ if hasattr(getattr(cpu, name), "in_tasks")]
    assert {"conv2d_forward", "dense_backward", "adam_update", "gather_rows", "accumulate"} <= set(marked)
