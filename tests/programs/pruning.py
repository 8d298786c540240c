"""Small weights set to zero by hand."""

import keras
import numpy as np
from keras import layers

rng = np.random.default_rng(0)
x = rng.random((12, 8, 8, 1), np.float32)
y = rng.integers(0, 3, 12)

model = keras.Sequential(
    [keras.Input((8, 8, 1)), layers.Conv2D(4, 3, name="conv"), layers.Flatten(), layers.Dense(3, activation="softmax")]
)
model.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
# train
model.fit(x, y, batch_size=6, epochs=1, shuffle=False, verbose=0)
conv, dense = model.get_layer("conv"), model.get_layer(index=-1)
kernel = conv.kernel.numpy()
limit = np.median(np.abs(kernel))
conv.kernel.assign(np.where(np.abs(kernel) < limit, 0.0, kernel))
conv.bias.assign_add(np.full(4, 0.1, np.float32))
weights, bias = dense.get_weights()
dense.set_weights([weights * (np.abs(weights) > 0.01), np.zeros_like(bias)])
shapes = [tuple(variable.shape) for variable in model.trainable_variables]
zeros = int((model.get_weights()[0] == 0).sum())
results = {"shapes": shapes, "zeros": zeros, "score": model.evaluate(x, y, verbose=0)}
