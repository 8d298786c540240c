"""Keras, on TensorFlow or JAX, trained by ``fit`` from NumPy arrays, as the seed does it."""

import os
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks import network
from benchmarks.peers.base import Peer


class Keras(Peer):
    """``backend`` is "tensorflow" or "jax"."""

    def __init__(self, threads: int, backend: str) -> None:
        super().__init__(threads)
        os.environ["KERAS_BACKEND"] = backend
        self.packages = ("keras", "tensorflow-cpu" if backend == "tensorflow" else backend)
        if backend == "tensorflow":
            import tensorflow

            tensorflow.config.threading.set_intra_op_parallelism_threads(threads)
            tensorflow.config.threading.set_inter_op_parallelism_threads(threads)
        import keras

        self.keras = keras

    def build(self) -> None:
        self.targets = np.eye(10, dtype=np.float32)[self.y]
        self.model = network.keras_model(self.keras)
        self.model.compile(loss="categorical_crossentropy", optimizer="adam", metrics=["accuracy"])
        self.model.set_weights(network.weights())

    def build_other(self, weights: list[np.ndarray]) -> None:
        self.keras.utils.clear_session()
        self.targets = self.y
        self.model = self.network.make(self.keras)
        self.model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
        self.model.set_weights(weights)

    def outputs(self, samples: int) -> np.ndarray:
        return self.model.predict(self.x[:samples], verbose=0)

    def epoch(self, samples: int, batch_size: int) -> float:
        history = self.model.fit(self.x[:samples], self.targets[:samples], batch_size=batch_size, epochs=1, verbose=0)
        return history.history["loss"][0]

    def inference(self, batch_size: int) -> Callable[[], Any]:
        x = self.x[:batch_size]
        return lambda: self.model.predict_on_batch(x)
