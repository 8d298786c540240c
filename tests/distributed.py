"""What tests/test_distribution.py runs in several processes: ``mpiexec -n N python tests/distributed.py CASE ...``."""

import json
import os
import signal
import sys
import tempfile
import time

import numpy as np

import tinyconv as keras
from tinyconv import layers
from tinyconv.distribution import parallel, ranks
from tinyconv.training import agreement
from tinyconv.training.agreement import digest

RNG = np.random.default_rng(0)
X = RNG.normal(size=(61, 12, 12, 1)).astype(np.float32)
Y = RNG.integers(0, 4, 61)
ONE_HOT = np.eye(4, dtype=np.float32)[Y]
INPUT = (12, 12, 1)
FOLDER = tempfile.TemporaryDirectory()
READ, SEEN = [], []  # what this rank has read, and which epochs its callbacks have seen


def seed_network():
    """Convolutions, pooling, dropout: the example's, but small."""
    stack = [layers.Conv2D(8, 3, activation="relu"), layers.MaxPooling2D(2), layers.Conv2D(8, 3, activation="relu")]
    stack += [layers.MaxPooling2D(2), layers.Flatten(), layers.Dropout(0.5), layers.Dense(4, activation="softmax")]
    model = keras.Sequential([keras.Input(INPUT), *stack])
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model, model.fit(X, Y, batch_size=16, epochs=2, validation_split=0.2, verbose=0)


def norm_network():
    """Batch norm, augmentation, penalties, weight decay, clipping, class weights, and a last batch of 5 samples."""
    stack = [layers.RandomRotation(0.1), layers.Conv2D(8, 3), layers.BatchNormalization(), layers.ReLU()]
    stack += [
        layers.Conv2D(4, 3, kernel_regularizer="l2"),
        layers.BatchNormalization(),
        layers.GlobalAveragePooling2D(),
    ]
    model = keras.Sequential([keras.Input(INPUT), *stack, layers.Dense(4, activation="softmax")])
    optimizer = keras.optimizers.AdamW(3e-3, global_clipnorm=1.0)
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    given = {"validation_data": (X[:7], Y[:7]), "class_weight": {0: 2.0}}
    return model, model.fit(X, Y, batch_size=14, epochs=2, verbose=0, **given)


class Batches(keras.utils.PyDataset):
    """Batches of 18, 18, 18 and 7 samples with weights."""

    def __len__(self):
        return 4

    def __getitem__(self, index):
        here = slice(18 * index, 18 * index + 18)
        weights = np.linspace(0.5, 2, len(X), dtype=np.float32)
        return X[here], {"a": Y[here], "b": X[here].mean(axis=(1, 2))}, {"a": weights[here], "b": weights[here] ** 2}


def graph():
    """A shared layer, a sum, two outputs, and batches from a data set in an order drawn anew each epoch."""
    image, shared = keras.Input(INPUT), layers.Conv2D(4, 3, padding="same", activation="relu")
    x = shared(layers.Conv2D(4, 1)(image))
    x = layers.Add()([x, shared(x)])
    pooled = layers.GlobalAveragePooling2D()(x)
    outputs = [layers.Dense(4, activation="softmax", name="a")(pooled), layers.Dense(1, name="b")(pooled)]
    model = keras.Model(image, outputs)
    losses = {"a": "sparse_categorical_crossentropy", "b": "mse"}
    model.compile("rmsprop", losses, loss_weights={"a": 1.0, "b": 0.3}, weighted_metrics={"a": "accuracy"})
    return model, model.fit(Batches(), epochs=2, verbose=0, validation_data=Batches())


def receipts():
    """What each network's weights and history are after training, and what it says of the data then."""
    found = {}
    for make in (seed_network, norm_network, graph):
        keras.utils.set_random_seed(1)
        model, history = make()
        scores = model.evaluate(Batches(), verbose=0) if make is graph else model.evaluate(X, Y, verbose=0)
        said = model.predict(Batches() if make is graph else X, batch_size=None if make is graph else 8)
        found[make.__name__] = [
            keras.distribution.receipt(model).sha256,
            history.history,
            scores,
            digest(said if isinstance(said, list) else [said]),
        ]
        found[f"{make.__name__} on every rank"] = len(set(map(str, RANKS.everyone(found[make.__name__]))))
    return found | sources() | single_batches()


class Counted(keras.utils.PyDataset):
    """Six batches of ten and one of one, which are fewer samples than shards. What was read is known."""

    noise = None

    def __len__(self):
        return 7

    def __getitem__(self, index):
        READ.append(index)
        x = X[10 * index : 10 * index + 10]
        return x if self.noise is None else x + self.noise.normal(size=x.shape), ONE_HOT[10 * index : 10 * index + 10]


class Noisy(Counted):
    """Another batch each time that it is read, whatever its number."""

    def __init__(self):
        self.noise = np.random.default_rng(1)


class Shuffled(Counted):
    """In another order each epoch, which all ranks draw alike."""

    seed = 1

    def on_epoch_end(self):
        self.order = np.random.default_rng(self.seed).permutation(7)

    def __getitem__(self, index):
        return super().__getitem__(self.order[index] if hasattr(self, "order") else index)


class Unseeded(Shuffled):
    """Each rank draws another order."""

    seed = property(lambda self: RANK)


def generator():
    """Nobody but rank 0 may read it."""
    for index in range(7):
        READ.append(index)
        yield X[10 * index : 10 * index + 10] + RANK, ONE_HOT[10 * index : 10 * index + 10]


def folder():
    """Images in files, read by all."""

    def seen(images, labels):
        READ.append(int(images[0, 0, 0, 0]) // 3)
        return images / 20, labels

    for number in range(21):
        keras.utils.save_img(os.path.join(FOLDER.name, f"{number:02}.png"), np.full(INPUT, number), scale=False)
    settings = {"label_mode": "categorical", "color_mode": "grayscale", "image_size": INPUT[:2], "batch_size": 3}
    labels = (np.arange(21) % 4).tolist()
    return keras.utils.image_dataset_from_directory(FOLDER.name, labels, shuffle=False, verbose=0, **settings).map(seen)


def sources():
    """What data sets give, and how often each batch was read, but for the first: it is looked at in advance, twice if
    ranks could share the reading, and once more where the data set changes between epochs."""
    found = {}
    for source, ahead in ((Counted, 2), (Noisy, 2), (Shuffled, 3), (Unseeded, 3), (generator, 0), (folder, 2)):
        READ.clear()
        model = small(source(), epochs=1)
        read = RANKS.everyone(list(READ))
        once = sorted(number for each in read for number in each[ahead:]) == list(range(7))
        shared = [len(each) > ahead for each in read] == [
            source in (Counted, Shuffled, folder) or rank == 0 for rank in range(len(read))
        ]
        seen = Outputs()
        said = model.predict(source() if source is Counted else generator(), callbacks=[seen])
        with parallel.alone():
            alone = model.predict(X, batch_size=10)
        whole = np.array_equal(said, alone) and (RANK > 0 or np.array_equal(np.concatenate(seen.all), said))
        found[source.__name__] = [keras.distribution.receipt(model).sha256, digest([said]), once, shared, whole]
    return found


class Outputs(keras.callbacks.Callback):
    """The outputs of each batch."""

    def __init__(self):
        self.all = []

    def on_predict_batch_end(self, batch, logs=None):
        self.all.append(logs["outputs"])


def single_batches():
    """Steps that the program takes itself, which are those of fit; a loss that is divided by the sum of the weights."""
    settings = {"loss": keras.losses.MeanSquaredError(reduction="mean_with_sample_weight"), "weighted_metrics": ["mae"]}
    weights = np.linspace(0, 2, len(X))
    whole = small(X, ONE_HOT, compiled=settings, sample_weight=weights, shuffle=False)
    model = small(X, ONE_HOT, compiled=settings, epochs=0)
    parts = [slice(first, first + 32) for first in range(0, len(X), 32)]
    scores = [model.train_on_batch(X[part], ONE_HOT[part], sample_weight=weights[part]) for part in parts]
    scores += [model.test_on_batch(X, ONE_HOT, sample_weight=weights)]
    same = keras.distribution.receipt(model).sha256 == keras.distribution.receipt(whole).sha256
    return {"single batches": [keras.distribution.receipt(model).sha256, scores, same]}


def small(x, y=None, epochs=1, compiled=None, **settings):
    """A small network, trained."""
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input(INPUT), layers.Flatten(), layers.Dropout(0.2), layers.Dense(4)])
    model.compile("adam", **{"loss": "mse", **(compiled or {})}, backend="reference")
    if epochs:
        model.fit(x, y, epochs=epochs, verbose=0, **settings)
    return model


class Failing(keras.utils.PyDataset):
    """30 batches, of which rank 1, that reads every second or third of them, cannot read one as it should."""

    def __init__(self, how):
        self.how = how

    def __len__(self):
        return 30

    def __getitem__(self, index):
        if index == 13 and RANK == 1:
            if self.how == "exception":
                raise OSError("the disk is gone")
            if self.how == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            if self.how == "interrupted":
                os.kill(os.getpid(), signal.SIGINT)
            if self.how == "slow":
                time.sleep(2)
        return X[:16], ONE_HOT[:16]


class Stops(keras.callbacks.Callback):
    """What rank 0 does after its fifth batch."""

    def __init__(self, how):
        self.how = how

    def on_train_batch_end(self, batch, logs=None):
        if batch == 4 and self.how == "callback fails":
            raise ValueError("a bad callback")
        if batch == 4 and self.how == "stopped":
            self.model.stop_training = True
        if batch == 4 and self.how == "weights set":
            self.model.set_weights([weight * 0 for weight in self.model.get_weights()])
            self.model.optimizer.learning_rate = 0.5


def faulty(how):
    """Rank 1 goes wrong, or rank 0's callback."""
    if how == "leaves" and RANK == 1:
        sys.exit("this one leaves")
    model = small(Failing(how), shuffle=False, callbacks=[Stops(how)])
    if how == "other call" and RANK == 1:
        model.evaluate(X, ONE_HOT)
    if how == "other batch":
        model.train_on_batch(X + RANK, ONE_HOT)
    model.train_on_batch(X, ONE_HOT)
    return model


def refused():
    """What all ranks say when rank 1 differs from rank 0."""
    first, said = Failing(""), []
    first.__class__ = type("Failing", (Failing,), {"__getitem__": lambda self, index: (X[:16] + RANK, ONE_HOT[:16])})
    own = agreement.versions
    for what in ("data", "arguments", "batch", "length", "version"):
        if what == "version" and RANK:
            agreement.versions = lambda: own() | {"numpy": "1.0"}
        try:
            if what == "batch":
                small(first)
            elif what == "length":
                small(X[: len(X) - RANK], ONE_HOT[: len(X) - RANK])
            else:
                small(X + RANK * (what == "data"), ONE_HOT, epochs=1 + RANK * (what == "arguments"))
        except ValueError as error:
            said.append(str(error))
    return said


def known(folder):
    """What happens on one rank, and all know of: an interruption, the end of a run, and what callbacks change."""
    found = {}
    for how in ("interrupted", "stopped", "weights set", "slow"):
        try:
            model = small(Failing(how), shuffle=False, callbacks=[Stops(how)])
        except KeyboardInterrupt:
            found[how] = True
        else:
            found[how] = [int(model.optimizer.iterations), float(model.optimizer.learning_rate)]
            found[f"{how}, weights"] = keras.distribution.receipt(model).sha256
    early = keras.callbacks.EarlyStopping("loss", min_delta=1e9)
    file = os.path.join(folder, f"{RANK}.keras")
    seen = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: SEEN.append(epoch))
    model = small(X, ONE_HOT, epochs=9, callbacks=[early, keras.callbacks.ModelCheckpoint(file), seen])
    found["early"] = int(model.optimizer.iterations)
    found["called"] = RANKS.everyone(list(SEEN))
    found["files"] = sorted(os.listdir(folder))
    return found


def backed_up(folder):
    """A run that goes on with a backup if there is one; slow enough to be killed in the middle."""
    with open(os.path.join(folder, f"pid{RANK}"), "w", encoding="utf-8") as file:
        file.write(str(os.getpid()))
    keras.utils.set_random_seed(1)
    backup = keras.callbacks.BackupAndRestore(os.path.join(folder, "backup"), save_freq=2)
    pause = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: time.sleep(0.005))
    return small(X, ONE_HOT, epochs=10, batch_size=10, callbacks=[pause, backup])


def cold():
    """How many functions each rank has compiled."""
    from tinyconv.kernels.cpu.runtime.jit import compile_watch

    with compile_watch() as watch:
        model = keras.Sequential([keras.Input((4,)), layers.Dense(2)])
        model.compile("sgd", "mse", backend="cpu")
        model.fit(X[:16, 0, :4, 0], X[:16, 0, :2, 0], verbose=0)
    return RANKS.everyone(len(watch.functions))


def main(case, *arguments):
    found = {each.__name__: each for each in (receipts, cold, faulty, backed_up, refused, known)}[case](*arguments)
    if isinstance(found, keras.Sequential):
        found = {"steps": int(found.optimizer.iterations), "receipt": keras.distribution.receipt(found).sha256}
    everywhere = RANKS.everyone(found)
    assert all(each == found for each in everywhere), everywhere
    if RANK == 0:
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    keras.distribution.set_distribution(keras.distribution.DataParallel())
    RANKS = keras.distribution.distribution().ranks
    RANK = RANKS.rank
    ranks.PATIENCE = 1.0
    main(*sys.argv[1:])
