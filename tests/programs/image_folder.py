"""Images in a folder for each class, split and resized, and a network that rescales them."""

import os

import keras
import numpy as np
from keras import layers

rng = np.random.default_rng(0)
for number, name in enumerate(["cat", "dog", "fish"]):
    os.makedirs(os.path.join("pictures", name), exist_ok=True)
    for i in range(4):
        image = rng.integers(0, 256, (9 + i, 10, 3))
        image[..., number] //= 4
        keras.utils.save_img(os.path.join("pictures", name, f"{i}.png"), image.astype("float32"), scale=False)

settings = {"image_size": (8, 8), "batch_size": 4, "verbose": False}
split = {"validation_split": 0.25, "subset": "both", "seed": 3}
train, validation = keras.utils.image_dataset_from_directory("pictures", **settings, **split)
everything = keras.utils.image_dataset_from_directory("pictures", shuffle=False, **settings)

model = keras.Sequential(
    [
        keras.Input((8, 8, 3)),
        layers.Rescaling(1.0 / 255),
        layers.Conv2D(4, 3, activation="relu"),
        layers.GlobalMaxPooling2D(),
        layers.Dropout(0.0),
        layers.Dense(len(everything.class_names)),
    ]
)
# train
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
model.compile(optimizer="adam", loss=loss, metrics=["accuracy"])
history = model.fit(everything, validation_data=validation, epochs=2, verbose=0)
shapes, labels = [], []
for images, numbers in everything:
    shapes.append((tuple(images.shape), tuple(numbers.shape)))
    labels += np.asarray(numbers).tolist()
one = keras.utils.load_img(os.path.join("pictures", "dog", "2.png"), target_size=(8, 8))
batch = np.expand_dims(keras.utils.img_to_array(one), 0)
results = {
    "history": history.history,
    "names": everything.class_names,
    "files": [os.path.basename(path) for path in everything.file_paths],
    "shapes": shapes,
    "labels": labels,
    "counts": [len(train), len(validation)],
    "scores": model.evaluate(validation, verbose=0),
    "predictions": model.predict(everything, verbose=0),
    "one": model.predict(batch, verbose=0),
}
