"""What tests/test_distribution.py runs in several processes: ``mpiexec -n N python tests/distributed.py CASE ...``."""

import json
import os
import signal
import sys
import time

import numpy as np

import tinyconv as keras
from tinyconv import layers
from tinyconv.distribution import ranks

RNG = np.random.default_rng(0)
X = RNG.normal(size=(61, 12, 12, 1)).astype(np.float32)
Y = RNG.integers(0, 4, 61)
INPUT = (12, 12, 1)


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
        scores = model.evaluate(Batches()) if make is graph else model.evaluate(X, Y, verbose=0)
        found[make.__name__] = [keras.distribution.receipt(model).sha256, history.history, scores]
        found[f"{make.__name__} on every rank"] = len(set(RANKS.everyone(found[make.__name__][0])))
    return found


def small(x, y=None, epochs=1, **settings):
    """A small network, trained."""
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input(INPUT), layers.Flatten(), layers.Dropout(0.2), layers.Dense(4)])
    model.compile("adam", "mse", backend="reference")
    model.fit(x, y, epochs=epochs, verbose=0, **settings)
    return model


def faulty(how):
    """Rank 1 goes wrong at the 11th of 30 batches, or before."""
    one_hot = np.eye(4, dtype=np.float32)[Y]
    if how == "other data":
        return small(X + RANK, one_hot)
    if how == "other arguments":
        return small(X, one_hot, epochs=1 + RANK)
    if how == "leaves" and RANK == 1:
        sys.exit("this one leaves")

    def batches():
        for number in range(30):
            if number == 10 and RANK == 1:
                if how == "exception":
                    raise OSError("the disk is gone")
                if how == "killed":
                    os.kill(os.getpid(), signal.SIGKILL)
                if how == "interrupted":
                    os.kill(os.getpid(), signal.SIGINT)
                if how == "slow":
                    time.sleep(2)
                if how == "ends early":
                    return
            yield X[:16] + (how == "other batch" and number == 10 and RANK == 1), one_hot[:16]

    class Stops(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 4 and how == "callback fails":
                raise ValueError("a bad callback")
            if batch == 4 and how == "stopped":
                self.model.stop_training = True
            if batch == 4 and how == "weights set":
                self.model.set_weights([weight * 0 for weight in self.model.get_weights()])
                self.model.optimizer.learning_rate = 0.5

    return small(batches(), callbacks=[Stops()])


def backed_up(folder):
    """A run that goes on with a backup if there is one; slow enough to be killed in the middle."""
    with open(os.path.join(folder, f"pid{RANK}"), "w", encoding="utf-8") as file:
        file.write(str(os.getpid()))
    keras.utils.set_random_seed(1)
    backup = keras.callbacks.BackupAndRestore(os.path.join(folder, "backup"), save_freq=2)
    pause = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: time.sleep(0.005))
    return small(X, np.eye(4, dtype=np.float32)[Y], epochs=10, batch_size=10, callbacks=[pause, backup])


def cold():
    """How many functions each rank has compiled."""
    from tinyconv.kernels.cpu.runtime.jit import compile_watch

    with compile_watch() as watch:
        model = keras.Sequential([keras.Input((4,)), layers.Dense(2)])
        model.compile("sgd", "mse", backend="cpu")
        model.fit(X[:16, 0, :4, 0], X[:16, 0, :2, 0], verbose=0)
    return RANKS.everyone(len(watch.functions))


def main(case, *arguments):
    if case in ("receipts", "cold"):
        found = receipts() if case == "receipts" else cold()
    else:
        try:
            model = faulty(*arguments) if case == "faulty" else backed_up(*arguments)
        except KeyboardInterrupt:
            found = {"interrupted": True}
        else:
            steps, rate = int(model.optimizer.iterations), float(model.optimizer.learning_rate)
            found = {"steps": steps, "rate": rate, "receipt": keras.distribution.receipt(model).sha256}
        found = RANKS.everyone(found)
        assert all(each == found[0] for each in found), found
        found = found[0]
    if RANK == 0:
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    keras.distribution.set_distribution(keras.distribution.DataParallel())
    RANKS = keras.distribution.distribution().ranks
    RANK = RANKS.rank
    ranks.PATIENCE = 1.0
    main(*sys.argv[1:])
