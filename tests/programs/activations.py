"""Activations as layers, by name, and of tensors."""

import keras
import numpy as np
from keras import activations, layers

rng = np.random.default_rng(0)
x = rng.standard_normal((8, 6)).astype(np.float32)
y = rng.random((8, 1), np.float32)

vector = keras.Input((6,))
branches = [layers.Dense(2, activation=name)(vector) for name in ("relu", "elu", "selu", "silu", "mish", "softsign")]
branches.append(activations.relu(layers.Dense(2)(vector), negative_slope=0.1))
branches.append(activations.tanh(layers.Dense(2)(vector)) - activations.sigmoid(layers.Dense(2)(vector)))
model = keras.Model(vector, layers.Dense(1)(layers.concatenate(branches)))
model.compile("sgd", "mse")
# train
history = model.fit(x, y, batch_size=4, epochs=2, shuffle=False, verbose=0).history
by_hand = [np.asarray(function(x)) for function in (activations.softmax, activations.gelu, activations.hard_sigmoid)]
results = {"history": history, "by_hand": by_hand}
