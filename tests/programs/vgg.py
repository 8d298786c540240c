"""Blocks of two convolutions and a pooling, layer by layer."""

import numpy as np
from keras.layers import Conv2D, Dense, Flatten, MaxPooling2D
from keras.models import Sequential
from keras.optimizers import SGD

rng = np.random.default_rng(1)
x = rng.random((16, 8, 8, 3), np.float32)
y = np.eye(3, dtype=np.float32)[rng.integers(0, 3, 16)]

model = Sequential()
model.add(Conv2D(4, (3, 3), activation="relu", padding="same", kernel_initializer="he_uniform", input_shape=(8, 8, 3)))
model.add(Conv2D(4, (3, 3), activation="relu", padding="same", kernel_initializer="he_uniform"))
model.add(MaxPooling2D((2, 2)))
model.add(Conv2D(6, (3, 3), activation="relu", padding="same", kernel_initializer="he_uniform"))
model.add(Conv2D(6, (3, 3), activation="relu", padding="same", kernel_initializer="he_uniform"))
model.add(MaxPooling2D((2, 2)))
model.add(Flatten())
model.add(Dense(8, activation="relu", kernel_initializer="he_uniform"))
model.add(Dense(3, activation="softmax"))
model.compile(optimizer=SGD(learning_rate=0.01, momentum=0.9), loss="categorical_crossentropy", metrics=["accuracy"])
# train
history = model.fit(x, y, epochs=3, batch_size=4, shuffle=False, verbose=0)
loss, accuracy = model.evaluate(x, y, verbose=0)
results = {"history": history.history, "loss": loss, "accuracy": accuracy, "parameters": model.count_params()}
