"""Dense layers on flattened digits."""

import keras
import numpy as np
from keras import layers
from keras.utils import to_categorical

rng = np.random.default_rng(0)
x = rng.integers(0, 256, (24, 8, 8)).astype("uint8")
y = rng.integers(0, 3, 24)
x_train = x.reshape((24, 64)).astype("float32") / 255
y_train = to_categorical(y, num_classes=3)

model = keras.Sequential()
model.add(layers.Dense(16, activation="relu", input_dim=64))
model.add(layers.BatchNormalization())
model.add(layers.Dense(3, activation="softmax"))
model.compile(optimizer="rmsprop", loss="categorical_crossentropy", metrics=["accuracy"])
# train
history = model.fit(x_train, y_train, epochs=3, batch_size=12, shuffle=False, verbose=0)
predictions = model.predict(x_train[:5], verbose=0)
results = {"history": history.history, "digits": predictions.argmax(axis=1), "predictions": predictions}
