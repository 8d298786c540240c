"""The third chapter: 32 x 32 colour photographs of ten kinds of things, the first problem that resists.

A deeper network without a wide dense layer (the mean over each channel takes its place), weight decay, and a learning
rate that rises, falls and ends near zero. The data come from TensorFlow Datasets (pip install -e '.[plot,datasets]'),
which downloads them once; without a network, pass a folder in which they are already.

    python examples/cifar10.py
    python examples/cifar10.py --data-dir ~/tensorflow_datasets --backup /tmp/cifar10

With --backup, a run that was stopped or killed goes on where it was when it is started again.
"""

import argparse

import numpy as np

import tinyconv as keras
from tinyconv import layers, optimizers

BATCH_SIZE = 128


def main() -> None:
    options = parse_options()
    keras.utils.set_random_seed(options.seed)
    data = keras.datasets.load("cifar10", data_dir=options.data_dir, manual_dir=options.manual_dir)
    (x_train, y_train), (x_test, y_test) = data
    mean = np.array([0.49, 0.48, 0.45], "float32")  # of red, green and blue, over the training images
    deviation = np.array([0.25, 0.24, 0.26], "float32")
    x_train, x_test = ((x.astype("float32") / 255 - mean) / deviation for x in (x_train, x_test))

    model = keras.Sequential([keras.Input(shape=x_train.shape[1:])])
    for filters in (32, 64, 128):
        for _ in range(2):
            model.add(layers.Conv2D(filters, 3, padding="same", use_bias=False))
            model.add(layers.BatchNormalization())
            model.add(layers.Activation("relu"))
        model.add(layers.MaxPooling2D(2))
    model.add(layers.GlobalAveragePooling2D())
    model.add(layers.Dropout(0.3))
    model.add(layers.Dense(len(data.class_names), activation="softmax"))
    model.summary()

    steps = options.epochs * -(-(len(x_train) - len(x_train) // 10) // BATCH_SIZE)
    optimizer = optimizers.AdamW(optimizers.schedules.OneCycle(0.004, steps), weight_decay=0.05)
    model.compile(optimizer=optimizer, loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    callbacks = [keras.callbacks.BackupAndRestore(options.backup)] if options.backup else []
    model.fit(x_train, y_train, batch_size=BATCH_SIZE, epochs=options.epochs, validation_split=0.1, callbacks=callbacks)
    loss, accuracy = model.evaluate(x_test, y_test, verbose=0)
    print(f"Test loss:     {loss:.4f}")
    print(f"Test accuracy: {accuracy:.4f}")

    if options.save:
        model.save(options.save)
    if options.report:
        from tinyconv.inspect.report import training_report

        title = f"CIFAR-10, test accuracy {accuracy:.2%}"
        predictions = model.predict(x_test)
        picture = training_report(model.history.history, data.test[0], y_test, predictions, data.class_names, title)
        picture.savefig(options.report)


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train a convolutional network on small colour photographs.")
    parser.add_argument("--epochs", type=int, default=20, help="how often to go through the training images (20)")
    parser.add_argument("--seed", type=int, default=0, help="an integer that makes the run repeatable (0)")
    parser.add_argument("--data-dir", help="where TensorFlow Datasets keeps its data (~/tensorflow_datasets)")
    parser.add_argument("--manual-dir", help="a folder with cifar-10-binary.tar.gz, downloaded by hand")
    parser.add_argument("--backup", metavar="FOLDER", help="where to keep a backup to go on from")
    parser.add_argument("--save", metavar="PATH", help="where to save the model: a .keras file")
    parser.add_argument("--report", metavar="PATH", help="a picture to draw")
    return parser.parse_args()


if __name__ == "__main__":
    main()
