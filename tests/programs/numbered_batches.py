"""A data set of one's own whose batches have numbers, for a model with an image and a number as inputs."""

import math

import keras
import numpy as np
from keras import layers

rng = np.random.default_rng(0)
images = rng.random((14, 8, 8, 1), np.float32)
ages = rng.random((14, 1), np.float32)
labels = rng.integers(0, 2, (14, 1)).astype("float32")
events = []


class Patients(keras.utils.PyDataset):
    def __init__(self, first, last, batch_size, **kwargs):
        super().__init__(**kwargs)
        self.first, self.last, self.batch_size = first, last, batch_size

    def __len__(self):
        return math.ceil((self.last - self.first) / self.batch_size)

    def __getitem__(self, index):
        low = self.first + index * self.batch_size
        rows = slice(low, min(low + self.batch_size, self.last))
        return {"image": images[rows], "age": ages[rows]}, labels[rows]

    def on_epoch_end(self):
        events.append(self.first)


image, age = keras.Input((8, 8, 1), name="image"), keras.Input((1,), name="age")
x = layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3, activation="relu")(image))
x = layers.Concatenate()([x, layers.Dense(2, activation="tanh")(age)])
model = keras.Model([image, age], layers.Dense(1, activation="sigmoid")(x))
# train
model.compile("adam", "binary_crossentropy", metrics=["accuracy", keras.metrics.AUC(name="auc")])
training, validation = Patients(0, 10, 4), Patients(10, 14, 4)
history = model.fit(training, validation_data=validation, epochs=2, shuffle=False, verbose=0)
results = {
    "history": history.history,
    "events": events.count(0),
    "scores": model.evaluate(validation, verbose=0),
    "predictions": model.predict(training, verbose=0),
}
