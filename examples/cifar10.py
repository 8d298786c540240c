"""The third chapter: 32 x 32 colour photographs of ten kinds of things, the first problem that resists.

A *residual* network. Each block computes a change of its input and adds it; so what is already right can stay as it is,
and gradients reach the first layers by way of the sums. Batch normalisation keeps the numbers of every layer in one
range. Every image is seen mirrored and shifted by a few pixels, never twice the same; weight decay, and a learning rate
that rises, falls and ends near zero, do the rest.

The data are the official ones, https://www.cs.toronto.edu/~kriz/cifar.html, "binary version": pass the folder that
cifar-10-binary.tar.gz is in. Without it they come from TensorFlow Datasets (pip install -e '.[plot,datasets]').

    python examples/cifar10.py --data-dir ~/Downloads
    python examples/cifar10.py --data-dir ~/Downloads --backup /tmp/cifar10

With --backup, a run that was stopped or killed goes on where it was when it is started again.
"""

import argparse

import numpy as np

import tinyconv as keras
from tinyconv import layers, optimizers

BATCH_SIZE = 128
CLASS_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def main() -> None:
    options = parse_options()
    keras.utils.set_random_seed(options.seed)
    (x_train, y_train), (photographs, y_test) = keras.datasets.cifar10.load_data(data_dir=options.data_dir)
    mean = np.array([0.49, 0.48, 0.45], "float32")  # of red, green and blue, over the training images
    deviation = np.array([0.25, 0.24, 0.26], "float32")
    x_train, x_test = ((x.astype("float32") / 255 - mean) / deviation for x in (x_train, photographs))

    model = residual_network(x_train.shape[1:])
    model.summary()

    steps = options.epochs * -(-(len(x_train) - len(x_train) // 10) // BATCH_SIZE)
    optimizer = optimizers.AdamW(optimizers.schedules.OneCycle(0.004, steps), weight_decay=0.05)
    model.compile(optimizer=optimizer, loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    callbacks = [keras.callbacks.BackupAndRestore(options.backup)] if options.backup else []
    model.fit(x_train, y_train, batch_size=BATCH_SIZE, epochs=options.epochs, validation_split=0.1, callbacks=callbacks)
    loss, accuracy = model.evaluate(x_test, y_test, verbose=0)
    print(f"Test loss:     {loss:.4f}")
    print(f"Test accuracy: {accuracy:.4f}")
    print(keras.distribution.receipt(model))

    if options.save:
        model.save(options.save)
    if options.report:
        from tinyconv.inspect.report import training_report

        title = f"CIFAR-10, test accuracy {accuracy:.2%}"
        results = photographs, y_test.ravel(), model.predict(x_test)
        training_report(model.history.history, *results, CLASS_NAMES, title).savefig(options.report)


def residual_network(shape: tuple[int, ...]) -> keras.Model:
    image = keras.Input(shape)
    x = layers.RandomFlip("horizontal")(image)
    x = layers.RandomTranslation(4 / 32, 4 / 32, fill_mode="constant")(x)
    x = layers.Activation("relu")(convolution(x, 32))
    for filters, stride in ((32, 1), (64, 2), (128, 2)):  # half the height and width, twice the channels
        x = residual_block(x, filters, stride)
    x = layers.Dropout(0.3)(layers.GlobalAveragePooling2D()(x))
    return keras.Model(image, layers.Dense(len(CLASS_NAMES), activation="softmax")(x))


def residual_block(x, filters: int, stride: int):
    """relu(x + f(x)), f being two convolutions. Where shapes change, a convolution of single pixels fits x to them."""
    change = layers.Activation("relu")(convolution(x, filters, stride=stride))
    change = convolution(change, filters)
    if stride > 1:
        x = convolution(x, filters, size=1, stride=stride)
    return layers.Activation("relu")(layers.Add()([x, change]))


def convolution(x, filters: int, size: int = 3, stride: int = 1):
    """A convolution and batch normalisation, whose shift takes the place of a bias."""
    x = layers.Conv2D(filters, size, strides=stride, padding="same", use_bias=False)(x)
    return layers.BatchNormalization()(x)


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train a residual network on small colour photographs.")
    parser.add_argument("--epochs", type=int, default=20, help="how often to go through the training images (20)")
    parser.add_argument("--seed", type=int, default=0, help="an integer that makes the run repeatable (0)")
    parser.add_argument("--data-dir", help="a folder with cifar-10-binary.tar.gz, or with the six files in it")
    parser.add_argument("--backup", metavar="FOLDER", help="where to keep a backup to go on from")
    parser.add_argument("--save", metavar="PATH", help="where to save the model: a .keras file")
    parser.add_argument("--report", metavar="PATH", help="a picture to draw")
    return parser.parse_args()


if __name__ == "__main__":
    main()
