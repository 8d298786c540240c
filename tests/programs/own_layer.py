"""A layer of one's own, with a weight."""

import keras
import numpy as np
from keras import layers

rng = np.random.default_rng(0)
x = rng.random((16, 5), np.float32)
y = rng.random((16, 1), np.float32)


@keras.saving.register_keras_serializable("programs")
class Scale(keras.layers.Layer):
    def __init__(self, offset=0.0, **kwargs):
        super().__init__(**kwargs)
        self.offset = offset

    def build(self, input_shape):
        self.factor = self.add_weight(shape=(input_shape[-1],), initializer="ones", name="factor")

    def call(self, inputs):
        return inputs * self.factor + self.offset

    def backward(self, dx, dweights, dout, x, out, weights):  # Keras finds it by itself
        dx[...] = dout * weights["factor"]
        dweights["factor"][...] = (dout * x).sum(axis=0)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "offset": self.offset}


model = keras.Sequential([keras.Input((5,)), layers.Dense(4), Scale(0.5, name="scale"), layers.Dense(1)])
model.compile("sgd", "mse")
# train
history = model.fit(x, y, batch_size=4, epochs=3, shuffle=False, verbose=0).history
factor = model.get_layer("scale").factor.numpy()
model.save("own.keras")
again = keras.models.load_model("own.keras")
results = {"history": history, "factor": factor, "config": again.get_layer("scale").get_config()["offset"]}
