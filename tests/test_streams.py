"""Data that come in batches: generators, data sets read by number, whatever can be iterated; and who reads them."""

import _thread
import gc
import itertools
import threading
import traceback
import tracemalloc
import warnings
import weakref

import numpy as np
import pytest

import tinyconv
from tests.test_progress import OutStream, screen
from tinyconv import callbacks, layers
from tinyconv.training import reader
from tinyconv.training.progress import Progress
from tinyconv.utils import PyDataset

RNG = np.random.default_rng(0)
X = RNG.standard_normal((22, 6)).astype(np.float32)
Y = RNG.integers(0, 3, 22)
W = RNG.random(22).astype(np.float32)
SIZES = [slice(first, first + 5) for first in range(0, 22, 5)]  # the last of two samples


def network(backend="reference", **settings):
    tinyconv.utils.set_random_seed(1)
    stack = [tinyconv.Input((6,)), layers.Dense(8, activation="relu"), layers.Dropout(0.5), layers.Dense(3)]
    model = tinyconv.Sequential([*stack, layers.Softmax()])
    settings = {"optimizer": "adam", "loss": "sparse_categorical_crossentropy", "metrics": ["accuracy"]} | settings
    model.compile(backend=backend, **settings)
    return model


def batches(*arrays, sizes=SIZES):
    """A generator of batches of these arrays."""
    for size in sizes:
        yield tuple(array[size] for array in arrays)


class Numbered(PyDataset):
    """The same, by number."""

    def __init__(self, *arrays, **settings):
        super().__init__(**settings)
        self.arrays, self.read = arrays, []

    def __len__(self):
        return len(SIZES)

    def __getitem__(self, index):
        self.read.append(index)
        return tuple(array[SIZES[index]] for array in self.arrays)


class Iterated:
    """The same, iterated again and again; it knows whether its generators have been closed."""

    def __init__(self, *arrays):
        self.arrays, self.begun, self.ended = arrays, 0, 0

    def __iter__(self):
        self.begun += 1
        try:
            yield from batches(*self.arrays)
        finally:
            self.ended += 1


def is_reading():
    return any(thread.name.startswith("tinyconv-") for thread in threading.enumerate())


@pytest.fixture(autouse=True)
def no_thread_is_left():
    yield
    assert not is_reading()


@pytest.fixture(autouse=True)
def no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


# --- the same as arrays


KINDS = {
    "a generator": lambda *arrays: itertools.chain(*(batches(*arrays) for _ in range(2))),
    "by number": Numbered,
    "by number, several workers": lambda *arrays: Numbered(*arrays, workers=3, max_queue_size=2),
    "iterated": Iterated,
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_stream_trains_as_its_arrays_do(kind):
    """Bit for bit: labels, weights of samples, dropout, metrics, a ragged last batch, two epochs."""
    expected, model = network(), network()
    whole = expected.fit(X, Y, sample_weight=W, batch_size=5, epochs=2, shuffle=False, verbose=0)
    steps = len(SIZES) if kind == "a generator" else None
    found = model.fit(KINDS[kind](X, Y, W), epochs=2, steps_per_epoch=steps, shuffle=False, verbose=0)
    assert found.history == whole.history
    assert all(map(np.array_equal, model.get_weights(), expected.get_weights()))
    stream = KINDS[kind](X, Y, W)
    assert model.evaluate(stream, steps=steps, verbose=0) == expected.evaluate(X, Y, 5, 0, sample_weight=W)
    stream = KINDS[kind](X)
    assert np.array_equal(model.predict(stream, steps=steps), expected.predict(X, batch_size=5))


def test_the_cpu_trains_on_a_stream_as_on_arrays():
    expected, model = network("cpu"), network("cpu")
    whole = expected.fit(X, Y, batch_size=5, epochs=2, shuffle=False, verbose=0)
    found = model.fit(Iterated(X, Y), epochs=2, verbose=0, validation_data=Iterated(X, Y))
    assert found.history["loss"] == whole.history["loss"]
    assert all(map(np.array_equal, model.get_weights(), expected.get_weights()))
    assert np.array_equal(model.predict(Numbered(X, Y)), expected.predict(X, batch_size=5))


def test_shuffling_draws_the_order_of_numbered_batches_by_the_seed():
    orders = []
    for shuffle in (True, True, False):
        data = Numbered(X, Y)
        network().fit(data, epochs=2, shuffle=shuffle, verbose=0)
        orders.append(data.read[1:])  # without the one that was read to see what there is
    assert orders[0] == orders[1]
    assert sorted(orders[0][:5]) == sorted(orders[0][5:]) == orders[2][:5] == orders[2][5:] == [0, 1, 2, 3, 4]
    assert orders[0][:5] != orders[0][5:]


def test_weights_of_classes_and_weights_in_some_batches_only():
    model, expected = network(), network()
    weights = {0: 0.5, 2: 3.0}
    model.fit(Iterated(X, Y), class_weight=weights, verbose=0)
    expected.fit(X, Y, class_weight=weights, batch_size=5, shuffle=False, verbose=0)
    assert all(map(np.array_equal, model.get_weights(), expected.get_weights()))
    with pytest.raises(ValueError, match="sample_weight and class_weight cannot be given together"):
        network().fit(Iterated(X, Y, W), class_weight=weights, verbose=0)
    some = [(X[:5], Y[:5], W[:5]), (X[5:10], Y[5:10])]
    ones = np.concatenate([W[:5], np.ones(5, np.float32)])
    expected = network().evaluate(X[:10], Y[:10], 5, 0, sample_weight=ones)
    np.testing.assert_allclose(network().evaluate(iter(some), verbose=0), expected, rtol=1e-6)


def test_several_inputs_and_outputs_by_place_and_by_name():
    def model():
        tinyconv.utils.set_random_seed(1)
        a, b = tinyconv.Input((6,), name="a"), tinyconv.Input((6,), name="b")
        joined = layers.Add()([layers.Dense(4)(a), layers.Dense(4)(b)])
        found = tinyconv.Model([a, b], [layers.Dense(3, name="u")(joined), layers.Dense(1, name="v")(joined)])
        losses = [tinyconv.losses.SparseCategoricalCrossentropy(from_logits=True), "mse"]
        found.compile("sgd", losses, backend="reference")
        return found

    v = X[:, :1]
    expected = model()
    history = expected.fit([X, -X], [Y, v], batch_size=5, shuffle=False, verbose=0).history
    for stream in (
        (((x, -x), (y, z)) for x, y, z in batches(X, Y, v)),
        (({"b": -x, "a": x}, {"v": z, "u": y}) for x, y, z in batches(X, Y, v)),
    ):
        assert model().fit(stream, verbose=0).history == history
    u, w = model().predict({"a": x, "b": -x} for (x,) in batches(X))
    assert (u.shape, w.shape) == ((22, 3), (22, 1))


def test_a_model_without_a_shape_takes_it_from_the_first_batch():
    model = tinyconv.Sequential([layers.Dense(2)])
    model.compile("sgd", "mse", backend="reference")
    model.fit(batches(X, X[:, :2]), verbose=0)
    assert model.input_shape == (None, 6)


# --- where an epoch ends


def losses(model, *arrays, **settings):
    return model.fit(*arrays, verbose=0, shuffle=False, **settings).history["loss"]


@pytest.mark.filterwarnings("ignore:x of fit ran out of batches")
@pytest.mark.parametrize("steps", [1, 2, 3, 5, 7])
def test_an_epoch_of_some_steps_goes_on_where_the_last_one_ended(steps):
    """And begins anew when everything has had its turn, whatever kind the data are of."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = losses(network(), X, Y, batch_size=5, epochs=4, steps_per_epoch=steps)
        for data in (Numbered(X, Y), Iterated(X, Y)):
            assert losses(network(), data, epochs=4, steps_per_epoch=steps) == expected


def test_steps_without_a_batch_size_divide_arrays_evenly():
    assert losses(network(), X, Y, steps_per_epoch=4) == losses(network(), X, Y, batch_size=6)
    assert network().evaluate(X, Y, steps=2, batch_size=5, verbose=0) == network().evaluate(X[:10], Y[:10], 5, 0)
    assert network().predict(X, steps=2, batch_size=5).shape == (10, 3)


@pytest.mark.parametrize("kind", [Numbered, Iterated, batches, lambda *arrays: arrays])
def test_data_that_run_out_end_the_epoch_with_a_warning(kind):
    data = kind(X, Y)
    x, y = data if isinstance(data, tuple) else (data, None)
    size = 5 if y is not None else None
    message = r"x of fit ran out of batches, so .*Expected 8 \(steps_per_epoch\)\. Received: 5\."
    with pytest.warns(UserWarning, match=message):
        history = network().fit(x, y, size, steps_per_epoch=8, verbose=0, shuffle=False)
    assert history.history["loss"] == losses(network(), X, Y, batch_size=5)


def test_an_iterator_that_has_ended_ends_the_training():
    message = (
        r"an iterator that has no batches left, so the training ends after epoch 1\. Expected 3 epochs\. Fix: .*st"
    )
    with pytest.warns(UserWarning, match=message):
        history = network().fit(batches(X, Y), epochs=3, verbose=0, callbacks=(log := Log()))
    assert history.epoch == [0]
    assert log.hooks == ["begin", "epoch 0", "end"]
    with pytest.warns(UserWarning, match="this epoch is not validated. Fix: .* with validation_steps"):
        history = network().fit(X, Y, epochs=2, verbose=0, validation_data=batches(X, Y))
    assert len(history.history["val_loss"]) == 1


class Log(callbacks.Callback):
    def __init__(self):
        self.hooks = []

    def on_train_begin(self, logs=None):
        self.hooks.append("begin")

    def on_epoch_end(self, epoch, logs=None):
        self.hooks.append(f"epoch {epoch}")

    def on_train_end(self, logs=None):
        self.hooks.append("end")


def test_an_iterator_is_read_no_further_than_it_must_be():
    """So it goes on in the next run where the last one ended."""
    endless = (pair for _ in itertools.count() for pair in batches(X, Y))
    model, expected = network(), network()
    for _ in range(2):
        model.fit(endless, epochs=2, steps_per_epoch=2, verbose=0, validation_data=(X, Y))
    model.evaluate(endless, steps=1, verbose=0)
    assert np.array_equal(next(endless)[0], X[SIZES[4]])
    expected.fit(X[:20], Y[:20], batch_size=5, epochs=1, shuffle=False, verbose=0)
    expected.fit(np.concatenate([X[20:], X[:0]]), Y[20:], verbose=0)
    assert expected.optimizer.iterations == 5


def test_validation_steps_and_frequency():
    model = network()
    data = Numbered(X, Y)
    history = model.fit(X, Y, epochs=4, verbose=0, validation_data=data, validation_steps=2, validation_freq=2)
    assert data.read == [0, 0, 1, 0, 1]
    assert len(history.history["val_loss"]) == 2
    assert history.history["val_loss"][-1] == model.evaluate(X[:10], Y[:10], 5, 0)[0]
    own = network().fit(X, Y, batch_size=5, verbose=0, validation_data=(X, Y), validation_steps=2, shuffle=False)
    part = network().fit(X, Y, batch_size=5, verbose=0, validation_data=(X[:10], Y[:10]), shuffle=False)
    assert own.history == part.history


def test_hooks_of_a_data_set():
    """Between the epochs, and once before the first; of validation data before each validation, as in Keras."""
    log = []

    class Hooked(Numbered):
        def on_epoch_begin(self):
            log.append(f"{self.name} begins")

        def on_epoch_end(self):
            log.append(f"{self.name} ends")

    data, validation = Hooked(X, Y), Hooked(X, Y)
    data.name, validation.name = "x", "v"
    network().fit(data, epochs=2, validation_data=validation, verbose=0)
    epoch = ["x begins", "x ends", "v ends", "v begins", "v ends"]
    assert log == ["x ends", *epoch, *epoch]


def test_callbacks_know_the_number_of_batches():
    for data, expected in ((Numbered(X, Y), 5), (Iterated(X, Y), None)):
        log = Log()
        network().fit(data, verbose=0, callbacks=log)
        assert log.params["steps"] == expected
    seen = []
    network().fit(
        data, verbose=0, callbacks=callbacks.LambdaCallback(on_train_batch_end=lambda b, logs: seen.append(b))
    )
    assert seen == [0, 1, 2, 3, 4]


# --- what it does not take


def endless_by_number():
    class Endless(PyDataset):
        num_batches = None

        def __getitem__(self, index):
            return X[:5], Y[:5]

    return Endless()


REFUSED = {
    "y": (lambda m: m.fit(batches(X, Y), Y), r"y cannot be given beside a data set: x of fit is one.*\(x, y\)"),
    "weights": (
        lambda m: m.evaluate(batches(X, Y), sample_weight=W),
        "sample_weight cannot be given beside a data set",
    ),
    "split": (
        lambda m: m.fit(batches(X, Y), validation_split=0.5, verbose=0),
        "validation_split is for arrays, and x of",
    ),
    "empty": (
        lambda m: m.fit(iter([]), verbose=0),
        r"data set x of fit is empty\..*has been read to its end stays empty",
    ),
    "empty, by number": (lambda m: m.predict(Iterated(X[:0])), "The input of model"),
    "endless": (lambda m: m.fit(endless_by_number(), verbose=0), r"x of fit has no end\..*Fix: steps_per_epoch=\.\.\."),
    "endless, to predict": (lambda m: m.predict(endless_by_number()), r"x of predict has no end\..*Fix: steps=\.\.\."),
    "four parts": (lambda m: m.fit(iter([(X, Y, W, W)]), verbose=0), r"Expected \(x,\), \(x, y\) or .*a tuple of 4"),
    "no targets": (lambda m: m.fit(iter([(X,)]), verbose=0), "No targets"),
    "no batch": (lambda m: m.fit(iter([(X[0], Y[0])]), verbose=0), "has the wrong shape.*add the batch axis"),
    "steps": (
        lambda m: m.fit(batches(X, Y), steps_per_epoch=0),
        "Invalid steps_per_epoch. Expected a positive integer",
    ),
    "later": (lambda m: m.fit(iter([(X, Y), (X, Y + 9)]), verbose=0), "A label is out of range"),
    "processes": (lambda m: Numbered(use_multiprocessing=True), r"PyDataset\(use_multiprocessing=True\).*workers="),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_wrong_is_said(case):
    call, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        call(network())


def test_a_data_set_is_refused_where_an_array_is_wanted():
    with pytest.raises(TypeError, match=r"a generator or a data set.*Expected an array\..*Fix: give fit, evaluate or"):
        network().train_on_batch(batches(X, Y), Y)
    with pytest.warns(UserWarning, match="batch_size has no effect on x of fit: it is a data set"):
        network().fit(batches(X, Y), batch_size=3, verbose=0)


def test_a_data_set_that_cannot_be_iterated_again():
    class Spent(Iterated):
        def __iter__(self):
            return iter([]) if self.begun else super().__iter__()

    with pytest.raises(
        ValueError, match=r"x of fit gives no batch when it is iterated again.*whose __iter__ begins anew"
    ):
        network().fit(Spent(X, Y), epochs=2, verbose=0)


# --- the thread


def test_the_next_batch_is_prepared_while_this_one_is_trained():
    made = [threading.Event() for _ in range(4)]

    def data():
        for event in made:
            event.set()
            yield X, Y

    def wait(batch, logs):
        assert made[min(batch + 1, 3)].wait(20)

    network().fit(data(), verbose=0, callbacks=callbacks.LambdaCallback(on_train_batch_begin=wait))


def test_an_error_in_the_data_arrives_with_its_traceback():
    def broken_in_the_middle():
        yield X, Y
        yield X, Y
        raise KeyError("of the data")

    model = network()
    with pytest.raises(KeyError, match="of the data") as caught:
        model.fit(broken_in_the_middle(), verbose=0)
    assert "broken_in_the_middle" in "".join(traceback.format_tb(caught.value.__traceback__))
    assert model.optimizer.iterations == 2
    model.fit(X, Y, verbose=0)  # nothing is left behind


@pytest.mark.parametrize("how", ["error", "interrupt", "stop"])
def test_the_thread_ends_and_closes_what_is_its_own(how):
    data, model = Iterated(X, Y), network()

    def leave(batch, logs):
        if how == "stop":
            model.stop_training = True
        else:
            raise {"error": OSError, "interrupt": KeyboardInterrupt}[how]

    leaving = callbacks.LambdaCallback(on_train_batch_end=leave)
    if how == "stop":
        model.fit(data, epochs=3, verbose=0, callbacks=leaving)
    else:
        with pytest.raises((OSError, KeyboardInterrupt)):
            model.fit(data, epochs=3, verbose=0, callbacks=leaving)
    assert not is_reading()
    assert (data.begun, data.ended) == (1, 1)
    assert model.optimizer.iterations == 1


def test_ctrl_c_while_the_data_keep_the_run_waiting(monkeypatch):
    monkeypatch.setattr(reader, "PATIENCE", 0.01)
    go_on, ended = threading.Event(), threading.Event()

    def slow():
        yield X, Y
        threading.Timer(0.05, _thread.interrupt_main).start()
        go_on.wait(20)
        yield X, Y
        yield X, Y

    with pytest.warns(UserWarning, match="has not returned a batch"), pytest.raises(KeyboardInterrupt):
        network().fit(slow(), verbose=0)
    (thread,) = (thread for thread in threading.enumerate() if thread.name == "tinyconv-reader")
    assert thread.daemon
    assert not ended.is_set()
    go_on.set()
    thread.join(20)
    assert not thread.is_alive()


def test_the_data_may_use_the_model():
    """The run gives way while it waits for a batch."""
    model = network()

    def hard():
        for x, y in batches(X, Y):
            assert model.predict(x).shape == (len(x), 3)
            yield x, y

    class Hard:
        def __iter__(self):
            return hard()

    expected = network()
    expected.fit(X, Y, batch_size=5, epochs=2, shuffle=False, verbose=0)
    model.fit(Hard(), epochs=2, verbose=0, validation_data=Hard())
    assert all(map(np.array_equal, model.get_weights(), expected.get_weights()))


@pytest.mark.long
def test_no_more_than_a_few_batches_are_in_memory():
    """400 MB pass through less than 8, in batches of 1 MB that are converted on their way."""
    alive, most = 0, 0

    def gone():
        nonlocal alive
        alive -= 1

    def data():
        nonlocal alive, most
        for _ in range(400):
            batch = np.full((1000, 125), 0.01)
            weakref.finalize(batch, gone)
            alive += 1
            most = max(most, alive)
            yield batch, batch[:, :1]
            del batch

    tinyconv.utils.set_random_seed(1)
    model = tinyconv.Sequential([tinyconv.Input((125,)), layers.Dense(1)])
    model.compile("sgd", "mse", backend="reference")
    model.fit(data(), steps_per_epoch=2, verbose=0)
    gc.collect()
    tracemalloc.start()
    try:
        model.fit(data(), verbose=0)
        model.evaluate(data(), verbose=0)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8e6
    assert most <= 5


# --- going on


def test_a_run_over_a_stream_goes_on_from_its_backup(tmp_path):
    class Stop(Exception):
        pass

    def run(model, data, stop=None, **settings):
        def after(batch, logs):
            nonlocal stop
            if stop is not None:
                stop -= 1
                if stop < 0:
                    raise Stop

        backup = callbacks.BackupAndRestore(tmp_path / "backup", save_freq=1)
        log = callbacks.LambdaCallback(on_train_batch_end=after)
        return model.fit(data(), epochs=3, steps_per_epoch=3, verbose=0, callbacks=[log, backup], **settings)

    for data in (
        lambda: Numbered(X, Y),
        lambda: Iterated(X, Y),
        lambda: (pair for _ in itertools.count() for pair in batches(X, Y)),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected, model = network(), network()
            history = run(expected, data).history
            with pytest.raises(Stop):
                run(model, data, stop=4)
            model = network()
            assert run(model, data).history == history
        assert all(map(np.array_equal, model.get_weights(), expected.get_weights()))


# --- other people's data


class Series:
    """A column of pandas, as far as it is looked at."""

    def __init__(self, values):
        self.values = values

    ndim = 1

    def to_numpy(self):
        return self.values

    def __array__(self, dtype=None, copy=None):
        return self.values

    def __getitem__(self, index):
        return self.values[index]


def test_columns_are_arrays():
    model = tinyconv.Sequential([tinyconv.Input((1,)), layers.Dense(1)])
    model.compile("sgd", "mse", backend="reference")
    column = X[:, 0].astype(np.float64)
    found = model.fit(Series(column), Series(column), sample_weight=Series(W), verbose=0, shuffle=False)
    assert found.history["loss"]
    assert np.array_equal(model.predict(Series(column)), model.predict(column[:, None]))


def test_a_numbered_data_set_that_is_an_iterator_too_is_read_by_number():
    """As those of Keras' ImageDataGenerator, which never end when they are iterated."""

    class Endless(Numbered):
        def __next__(self):
            raise AssertionError("iterated")

    data = Endless(X, Y)
    network().fit(data, shuffle=False, epochs=2, verbose=0)
    assert data.read[1:] == [0, 1, 2, 3, 4] * 2


class Tensor:
    """A tensor of torch on the CPU, as far as it is looked at."""

    def __init__(self, values):
        self.values = values

    def __array__(self, dtype=None, copy=None):
        return self.values

    def __getitem__(self, index):
        return Tensor(self.values[index])

    def __len__(self):
        return len(self.values)


class DataLoader:
    """torch's: iterated, with a length, and lists of tensors."""

    def __len__(self):
        return len(SIZES)

    def __iter__(self):
        return iter([[Tensor(x), Tensor(y)] for x, y in batches(X, Y)])


def test_a_data_loader():
    model, expected = network(), network()
    log = Log()
    model.fit(DataLoader(), verbose=0, callbacks=log)
    expected.fit(X, Y, batch_size=5, shuffle=False, verbose=0)
    assert log.params["steps"] == 5
    assert all(map(np.array_equal, model.get_weights(), expected.get_weights()))


def test_a_data_set_that_can_be_begun_only_once_at_a_time():
    """For training and for validation, such as a DataLoader whose workers are persistent."""

    class Loader:
        def __iter__(self):
            self.rest = batches(X, Y)
            return iter(lambda: next(self.rest, None), None)

    loader, expected = Loader(), network()
    found = network().fit(loader, epochs=2, validation_data=loader, verbose=0).history
    whole = expected.fit(X, Y, batch_size=5, epochs=2, shuffle=False, validation_data=(X, Y), verbose=0).history
    assert found == whole


# --- what a person sees


def test_a_length_that_nobody_knows_is_a_question_mark(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    stream = OutStream()
    progress = Progress(1, 2, None, stream)
    progress.epoch_begin(0)
    progress.update(50, {"loss": 0.5})
    (line,) = screen(stream.getvalue())
    assert line.startswith("    1/2  50 images  loss 0.5000  ")
    assert line.endswith("  ? left")
    progress.epoch_end({"loss": 0.5}, 0.25, 100)
    assert screen(stream.getvalue())[-2] == "    1/2   0.25 s        400   0.5000"
    progress.epoch_begin(1)
    progress.update(50, {"loss": 0.5})
    assert "?" not in screen(stream.getvalue())[-1]


def test_rows_count_the_samples_that_there_were(capsys):
    network().evaluate(batches(X, Y), verbose=2)
    assert capsys.readouterr().out.startswith("22 images")
