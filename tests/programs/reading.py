"""A trained network, read: names, shapes, numbers of parameters."""

import keras
import numpy as np
from keras import layers

rng = np.random.default_rng(0)

image = keras.Input((8, 8, 1), name="image")
base = keras.Sequential([layers.Conv2D(3, 3, name="conv"), layers.BatchNormalization(name="norm")], name="base")
out = layers.Dense(2, name="top")(layers.Flatten(name="flat")(base(image)))
model = keras.Model(image, out, name="network")
# train
results = {
    "layers": [(layer.name, type(layer).__name__, layer.count_params()) for layer in model.layers],
    "weights": [(variable.name, tuple(variable.shape)) for variable in model.weights],
    "trainable": [variable.name for variable in model.trainable_variables],
    "others": [variable.name for variable in model.non_trainable_variables],
    "shapes": [model.input_shape, model.output_shape, model.input.shape, model.output.shape],
    "inside": [model.get_layer("base").get_layer("conv").kernel.shape, model.get_layer("top").bias.numpy()],
    "parameters": [model.count_params(), len(model.get_weights())],
    "names": [model.name, model.inputs[0].name, model.get_layer(index=1).name],
    "built": [layer.built for layer in model.layers],
}
