"""What each layer makes of an image."""

import keras
import numpy as np
from keras import layers

rng = np.random.default_rng(0)
x = rng.random((12, 8, 8, 1), np.float32)
y = rng.integers(0, 3, 12)

model = keras.Sequential(
    [
        keras.Input((8, 8, 1)),
        layers.Conv2D(3, 3, activation="relu", name="conv_1"),
        layers.MaxPooling2D(name="pool"),
        layers.Conv2D(4, 2, activation="relu", name="conv_2"),
        layers.Flatten(),
        layers.Dense(3, activation="softmax"),
    ]
)
model.compile("sgd", "sparse_categorical_crossentropy")
# train
model.fit(x, y, batch_size=6, epochs=1, shuffle=False, verbose=0)
outputs = [layer.output for layer in model.layers if "conv" in layer.name or "pool" in layer.name]
activations = keras.Model(inputs=model.inputs, outputs=outputs).predict(x[:2], verbose=0)
filters, biases = model.get_layer("conv_1").get_weights()
low, high = filters.min(), filters.max()
results = {"maps": activations, "filters": (filters - low) / (high - low), "kernel": model.layers[0].kernel.numpy()}
