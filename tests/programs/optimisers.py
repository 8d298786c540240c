"""One network under each optimiser."""

import keras
import numpy as np
from keras import layers

rng = np.random.default_rng(0)
x = rng.random((12, 6), np.float32)
y = rng.integers(0, 3, 12)

model = keras.Sequential([keras.Input((6,)), layers.Dense(5, activation="tanh"), layers.Dense(3, activation="softmax")])
# train
start, results = model.get_weights(), {}
optimizers = [
    keras.optimizers.SGD(0.1, momentum=0.9),
    keras.optimizers.RMSprop(0.01, momentum=0.5, centered=True),
    keras.optimizers.Adam(0.01, beta_1=0.8),
    keras.optimizers.AdamW(0.01, weight_decay=0.1),
    keras.optimizers.SGD(0.1, global_clipnorm=0.1),
]
for number, optimizer in enumerate(optimizers):
    model.set_weights(start)
    model.compile(optimizer, "sparse_categorical_crossentropy")
    results[str(number)] = model.fit(x, y, batch_size=4, epochs=2, shuffle=False, verbose=0).history
