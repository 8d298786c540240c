"""More machines: the same bits for any number of processes, and an end for all of them when one goes wrong.

What needs MPI is skipped where it is not installed: pip install -e '.[mpi]'.
"""

import contextlib
import importlib.util
import itertools
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import tinyconv as keras
from benchmarks import scaling, scaling_ranks
from tinyconv import layers
from tinyconv.distribution import parallel
from tinyconv.distribution.ranks import GONE, RankError, Ranks
from tinyconv.distribution.shards import Tree, cut, owned, portion
from tinyconv.training.sharded import Shards

HERE = Path(__file__).parent
MPIEXEC = shutil.which("mpiexec", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
MISSING = "mpi4py" if importlib.util.find_spec("mpi4py") is None else "mpiexec" if MPIEXEC is None else ""
needs_mpi = pytest.mark.skipif(bool(MISSING), reason=f"needs {MISSING}: pip install -e '.[mpi]'")


# Shards and sums


@pytest.mark.parametrize(("samples", "expected"), [(16, [2] * 8), (18, [3, 3] + [2] * 6), (3, [1, 1, 1] + [0] * 5)])
def test_a_batch_is_cut_into_equal_shards(samples, expected):
    assert cut(samples, 8) == expected
    found = [portion(samples, rank, 3, 8) for rank in range(3)]
    assert [len(range(samples)[each]) for each in found] == [sum(expected[:2]), sum(expected[2:5]), sum(expected[5:])]


@pytest.mark.parametrize("shards", [1, 8, 16])
def test_sums_do_not_depend_on_the_number_of_ranks(shards):
    rows = np.random.default_rng(0).normal(size=(shards, 100)).astype(np.float32)
    found = []
    for ranks in range(1, shards + 1):
        assert list(itertools.chain(*(owned(rank, ranks, shards) for rank in range(ranks)))) == list(range(shards))
        shared = np.full_like(rows, np.nan)
        for rank in range(ranks):
            tree, own = Tree.of(rank, ranks, shards), np.full_like(rows, np.nan)
            own[owned(rank, ranks, shards)] = rows[owned(rank, ranks, shards)]
            for left, right in tree.inside:
                own[left] += own[right]
            shared[tree.sent[rank]] = own[tree.sent[rank]]
        assert sum(map(len, tree.sent)) < 2 * ranks or shards % ranks
        for left, right in tree.rest:
            shared[left] += shared[right]
        found.append(shared[0].tobytes())
    assert len(set(found)) == 1
    np.testing.assert_allclose(np.frombuffer(found[0], np.float32), rows.sum(axis=0), rtol=1e-5, atol=1e-5)


def test_what_a_rank_receives_does_not_grow_with_the_number_of_ranks():
    """Two ranks get each other's sum; more, a share of each sum, and what has become of the other shares."""
    assert scaling_ranks.traffic(1, 100).bytes == 0
    assert scaling_ranks.traffic(2, 100) == (2, 100)
    for ranks in (4, 8, 16, 64):
        assert scaling_ranks.traffic(ranks, 100) == (3 * (ranks - 1), pytest.approx(200 * (ranks - 1) / ranks))


def test_the_model_finds_the_link_that_times_come_from():
    link = scaling_ranks.Link("", 1e-5, 2e9)
    found = scaling_ranks.fitted("", {size: scaling_ranks.expected(link, 2, size) for size in scaling_ranks.SIZES})
    assert found[1:] == pytest.approx(link[1:])


# The arithmetic, without MPI: one process that computes all shards


class Alone:
    """The ranks of a job of one."""

    rank, size, threads, neighbour, others = 0, 1, 1, 0, ()
    is_alone = interrupted = False

    def __init__(self):
        self.thread = threading.get_ident()
        self.mpi = type("MPI", (), {"Status": object})

    comm = None

    def everyone(self, value, what=""):
        return [value]

    def first(self, value=None):
        return value

    def deal(self, dealer, values, what):
        return values[dealer]

    def alone(self):
        return contextlib.nullcontext()

    interruptible = alone


@pytest.fixture
def in_shards(monkeypatch):
    """DataParallel in this process."""
    monkeypatch.setattr(parallel, "_ranks", Alone())
    monkeypatch.setattr(parallel, "_distribution", None)
    keras.distribution.set_distribution(keras.distribution.DataParallel())


X = np.random.default_rng(0).normal(size=(21, 6, 6, 2)).astype(np.float32)
Y = np.eye(3, dtype=np.float32)[np.arange(21) % 3]


MEAN = "mean_with_sample_weight"


def trained(loss="categorical_crossentropy", optimizer="sgd", **fit):
    keras.utils.set_random_seed(1)
    x = image = keras.Input((6, 6, 2))
    x = layers.Conv2D(3, 3, use_bias=False, kernel_regularizer="l2")(layers.RandomTranslation(0.2, 0.2)(x))
    x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.Dropout(0.3)(layers.Flatten()(layers.BatchNormalization(center=False, scale=False)(x)))
    model = keras.Model(image, layers.Dense(3, activation="softmax")(x))
    model.compile(optimizer, loss, metrics=["accuracy"], weighted_metrics=["mse"], backend="reference")
    history = model.fit(X, Y, verbose=0, **{"batch_size": 10, **fit}).history
    scores = model.evaluate(X, Y, batch_size=8, verbose=0, sample_weight=fit.get("sample_weight"))
    return model.get_weights(), history, scores, model.predict(X)


@pytest.mark.parametrize(
    "settings",
    [
        {"epochs": 2, "validation_split": 0.3},
        {"loss": keras.losses.CategoricalCrossentropy(reduction="sum"), "class_weight": {0: 3.0, 1: 0.5}},
        {"optimizer": keras.optimizers.SGD(0.1, clipnorm=0.1), "sample_weight": np.linspace(0, 2, 21)},
        {"batch_size": 4, "steps_per_epoch": 5},
        {"loss": keras.losses.CategoricalCrossentropy(reduction=MEAN), "sample_weight": np.linspace(0, 2, 21)},
    ],
    ids=["validation", "sum and class weights", "clipping and sample weights", "small batches", "weighted mean"],
)
def test_shards_compute_what_the_whole_batch_does(settings, in_shards):
    """Fewer samples than shards, too; in float32, whose sums in another order differ a little."""
    optimizer = settings.pop("optimizer", keras.optimizers.SGD(0.05, momentum=0.9))
    team, results = keras.distribution.distribution(), []
    for value in (None, team):
        keras.distribution.set_distribution(value)
        results.append(trained(optimizer=type(optimizer).from_config(optimizer.get_config()), **settings))
    for whole, sharded in zip(results[0][0], results[1][0], strict=True):
        np.testing.assert_allclose(sharded, whole, rtol=1e-4, atol=2e-6)
    for name, values in results[0][1].items():
        np.testing.assert_allclose(results[1][1][name], values, rtol=1e-4, err_msg=name)
    np.testing.assert_allclose(results[1][2], results[0][2], rtol=1e-4)
    np.testing.assert_allclose(results[1][3], results[0][3], rtol=1e-4, atol=1e-6)


class Moves(keras.Layer):
    """A layer with statistics of its own."""

    def build(self, input_shape):
        self.add_weight(name="seen", shape=(1,), initializer="zeros", trainable=False)

    def forward(self, out, x, weights):
        out[...] = x

    def backward(self, dx, dweights, dout, x, out, weights):
        dx[...] = dout


def test_what_shards_would_get_wrong_is_refused(in_shards):
    model = keras.Sequential([keras.Input((4,)), Moves(), layers.Dense(1)])
    model.compile("sgd", "mse", backend="reference")
    with pytest.raises(ValueError, match="Layer 'moves' moves statistics of its own"):
        model.fit(np.zeros((4, 4)), np.zeros((4, 1)), verbose=0)


def test_a_gpu_is_refused_by_name():
    owner = type("Owner", (), {"state": type("State", (), {"on_host": False})})
    with pytest.raises(ValueError, match=r'DataParallel computes on processors\. Expected.*Received: "cuda"'):
        Shards(owner, type("Team", (), {"ranks": None}))


def test_arguments_are_refused_by_name(in_shards):
    new = keras.distribution.DataParallel
    assert new(devices=["cpu:0"], shards=4).shards == 4
    with pytest.raises(ValueError, match=r"DataParallel\(auto_shard_dataset=False\) is not supported"):
        new(auto_shard_dataset=False)
    with pytest.raises(ValueError, match=r"shards.*Expected a power of two. Received: 6"):
        new(shards=6)
    with pytest.raises(ValueError, match=r"devices.*Expected None, or \['cpu:0'\]"):
        new(devices=["gpu:0"])
    with pytest.raises(ValueError, match=r"initialize\(num_processes=2\) is not supported"):
        keras.distribution.initialize(num_processes=2)
    with pytest.raises(ValueError, match="Expected a DataParallel, or None"):
        keras.distribution.set_distribution("DataParallel")
    with pytest.raises(AttributeError, match=r"keras\.distribution\.ModelParallel is not supported.*Fix: DataParallel"):
        keras.distribution.ModelParallel  # noqa: B018
    assert keras.distribution.list_devices("gpu") == []
    assert keras.distribution.get_device_count("cpu") == 1


def test_without_mpi_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    monkeypatch.setattr(parallel, "_ranks", None)
    with pytest.raises(ImportError, match=r"needs mpi4py.*pip install 'tinyconv\[mpi\]'"):
        keras.distribution.DataParallel()


def test_a_receipt_is_that_of_the_weights():
    keras.utils.set_random_seed(5)
    model = keras.Sequential([keras.Input((4,)), layers.Dense(1)])
    first = keras.distribution.receipt(model)
    assert first.seed == 5
    assert set(first.versions) == {"tinyconv", "numpy", "numba", "python"}
    assert str(first).startswith(f"Receipt: weights sha256 {first.sha256}, seed 5, tinyconv ")
    model.set_weights([weight + 1 for weight in model.get_weights()])
    assert keras.distribution.receipt(model).sha256 != first.sha256


def test_a_rank_that_has_said_everything_before_it_ended_is_no_loss():
    """Its last message comes between two looks, and with it the word that it has ended."""
    ranks, come = object.__new__(Ranks), []
    ranks.rank, ranks.waits, ranks.interrupted = 0, 0, False
    ranks.comm = type("Comm", (), {"Iprobe": lambda self, rank, tag: tag == GONE and not come.append(rank)})()
    with pytest.raises(RankError, match="Rank 1 has ended, and rank 0 waits for it"):
        ranks.wait("another message", lambda: False, lambda: [1])
    come.clear()
    ranks.wait("another message", lambda: bool(come), lambda: [1])


@pytest.mark.long
def test_the_benchmark_measures_steps_and_exchanges(in_shards, monkeypatch, tmp_path):
    """In this process, where it would start several."""

    def result(job):
        what, *numbers = job
        return scaling_ranks.step(*numbers) if what == "step" else [scaling_ranks.exchange(size) for size in numbers]

    monkeypatch.setenv("TINYCONV_BACKEND", "reference")
    monkeypatch.setattr(scaling_ranks, "BATCH", 4)
    monkeypatch.setattr(scaling_ranks, "start", lambda ranks, *job, hosts=False: job)
    monkeypatch.setattr(scaling_ranks, "result", result)
    scaling.main(["--ranks", "--quick", "--rounds=1", f"--out={tmp_path}"])
    found = json.loads((tmp_path / "scaling_ranks.json").read_text())
    assert list(found["steps"]) == ["1 rank", "1 rank, twice at once", "2 ranks, weak"]
    assert found["exchanges"]["2 ranks, memory"][0] == 2


# In several processes


def mpiexec(ranks, *arguments, timeout=120, wait=True, hosts=False, **environment):
    """``hosts``: whether each rank is on one of its own, which is a namespace of this machine."""
    start = ["sh", str(HERE.parent / "benchmarks" / "hosts.sh"), MPIEXEC] if hosts else [MPIEXEC, "-n"]
    command = [*start, str(ranks), sys.executable, str(HERE / "distributed.py"), *map(str, arguments)]
    there = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", **environment}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, env=there, start_new_session=True, **pipes)
    if not wait:
        return process
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGTERM)
        raise AssertionError(process.communicate()) from None
    return process.returncode, out, err


def result(ranks, *arguments, **environment):
    status, out, err = mpiexec(ranks, *arguments, **environment)
    assert status == 0, err
    return json.loads(out.splitlines()[-1])


@pytest.fixture(scope="module")
def receipts():
    found = {}

    def of(ranks, threads=1, hosts=False):
        if (ranks, threads) not in found:
            settings = {"timeout": 300, "hosts": hosts, "NUMBA_NUM_THREADS": str(threads)}
            found[ranks, threads] = result(ranks, "receipts", **settings)
        return found[ranks, threads]

    return of


@needs_mpi
@pytest.mark.parametrize(("ranks", "threads"), [(2, 1), (3, 1), (1, 2), pytest.param(4, 2, marks=pytest.mark.long)])
def test_receipts_are_the_same_for_any_number_of_ranks_and_threads(ranks, threads, receipts):
    """Of weights, history, evaluation and prediction: a small network as the example's, one with batch norm, a graph,
    data sets of all kinds, of which each batch is read once, and single batches. Four ranks are on hosts of their own
    where there can be some."""
    expected = receipts(1)
    assert receipts(ranks, threads, hosts=ranks > 3 and not scaling_ranks.hosts_missing()) == expected
    assert [value for name, value in expected.items() if name.endswith("every rank")] == [1, 1, 1]
    for name in ("Counted", "Noisy", "Shuffled", "Unseeded", "generator", "folder"):
        assert expected[name][2:] == [True] * 3, (
            name
        )  # each batch was read once, and predictions are those of one process
    assert expected["single batches"][-1], "train_on_batch differs from fit"


@needs_mpi
@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("exception", "Rank 1 of 2 ends the job:.*OSError: the disk is gone"),
        ("killed", r"Rank 1 of 2 \(process \d+ on .*\) was killed, which ends the job"),
        ("leaves", "this one leaves.*Rank 1 has ended, and rank 0 waits for it"),
        (
            "other call",
            r"Rank \d waits for .* of rank \d, which has sent .*\. Expected all ranks to run the same program",
        ),
        ("other batch", "Rank 1 has other data or another learning rate than rank 0"),
        ("callback fails", "Rank 0 of 2 ends the job:.*ValueError: a bad callback"),
    ],
)
def test_when_one_rank_goes_wrong_all_end(how, message):
    began = time.monotonic()
    status, out, err = mpiexec(2, "faulty", how)
    assert status
    assert re.search(message, err, re.DOTALL), err
    assert "steps" not in out
    assert time.monotonic() - began < 30  # on a busy machine; the end itself takes seconds


@needs_mpi
def test_what_differs_is_refused_before_the_first_step():
    expected = ["numbers of x of fit", "arguments", "first batch of x of fit", "arrays of x of fit", "numpy"]
    for what, said in zip(expected, result(2, "refused"), strict=True):
        assert f"The ranks of this job differ in: {what}. Expected the same" in said


@needs_mpi
def test_what_happens_on_one_rank_is_known_to_all(tmp_path):
    status, out, err = mpiexec(3, "known", tmp_path)
    assert status == 0, err
    found = json.loads(out)
    assert found["interrupted"] is True
    assert found["stopped"][0] == 5
    assert found["weights set"] == [30, 0.5]
    assert found["slow"][0] == 30
    assert "Waiting for rank 1 for 1 s." in err
    assert found["early"] == 4  # two epochs of two batches
    assert found["called"] == [[0, 1], [], []]
    assert found["files"] == ["0.keras"]


@needs_mpi
@pytest.mark.parametrize("kills", [2, pytest.param(50, marks=pytest.mark.slow)])
def test_killed_and_started_again_it_ends_with_the_same_receipt(kills, tmp_path, record_property):
    """A rank, drawn at random, is killed at a random moment; 70 batches are backed up after every second one."""
    whole, again = tmp_path / "whole", tmp_path / "again"
    whole.mkdir()
    again.mkdir()
    began = time.monotonic()
    expected = result(2, "backed_up", whole)
    lasts = time.monotonic() - began
    rng, done, finished = random.Random(0), 0, 0
    while done < kills:
        for file in again.glob("pid*"):
            file.unlink()
        process = mpiexec(2, "backed_up", again, wait=False)
        victim = again / f"pid{rng.randrange(2)}"
        while not (victim.exists() and victim.read_text()):
            time.sleep(0.01)
        time.sleep(rng.uniform(0, lasts / 3))
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(victim.read_text()), signal.SIGKILL)
        began = time.monotonic()
        out, err = process.communicate(timeout=60)
        if '"steps"' not in out:
            assert time.monotonic() - began < 10
            assert re.search(r"Rank \d of 2 \(process \d+ on .*\) was killed", err), (process.returncode, out, err)
            done += 1
        else:  # it was quicker
            assert json.loads(out.splitlines()[0]) == expected
            finished += 1
    record_property("runs that ended before they were killed", finished)
    assert result(2, "backed_up", again) == expected


@needs_mpi
@pytest.mark.long
def test_ranks_that_start_cold_share_the_cache(tmp_path):
    """All kernels are compiled once, by the first rank, and found by the others."""
    status, out, err = mpiexec(2, "cold", timeout=300, NUMBA_CACHE_DIR=str(tmp_path))
    assert status == 0, err
    first, second = json.loads(out.splitlines()[-1])
    assert first > 0
    assert second == 0
