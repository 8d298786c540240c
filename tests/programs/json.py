"""A network as a text, and its weights apart."""

import keras
import numpy as np
from keras import layers
from keras.models import model_from_json

rng = np.random.default_rng(0)
x = rng.random((12, 8, 8, 1), np.float32)
y = rng.integers(0, 3, 12)

model = keras.Sequential(
    [
        keras.Input((8, 8, 1)),
        layers.Conv2D(2, (3, 3), strides=(2, 2), padding="same", activation="relu", name="conv"),
        layers.Flatten(name="flat"),
        layers.Dense(3, name="dense", kernel_regularizer="l2"),
    ]
)
# train
text = model.to_json()
again = model_from_json(text)
again.set_weights(model.get_weights())
config = model.get_layer("conv").get_config()
other = layers.Conv2D.from_config(config)
same = type(model).from_config(model.get_config())
results = {
    "predictions": again.predict(x, verbose=0),
    "names": [layer.name for layer in same.layers],
    "config": {key: config[key] for key in ("name", "filters", "kernel_size", "strides", "padding", "activation")},
    "filters": other.filters,
}
