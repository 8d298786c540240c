"""The second chapter: clothes instead of digits, the same 28 x 28 pixels and a harder problem.

Shirts, pullovers and coats look alike, so the network needs more capacity, and with it two things that digits did not
need: batch normalisation, to train deeper layers quickly, and a stop where it begins to learn the training images by
heart. The data come from TensorFlow Datasets (pip install -e '.[plot,datasets]'), which downloads them once; without a
network, pass a folder in which they are already.

    python examples/fashion_mnist.py
    python examples/fashion_mnist.py --data-dir ~/tensorflow_datasets
"""

import argparse

import tinyconv as keras
from tinyconv import layers


def main() -> None:
    options = parse_options()
    if options.seed is not None:
        keras.utils.set_random_seed(options.seed)
    data = keras.datasets.load("fashion_mnist", data_dir=options.data_dir, manual_dir=options.manual_dir)
    (x_train, y_train), (x_test, y_test) = data
    x_train, x_test = x_train.astype("float32") / 255, x_test.astype("float32") / 255

    model = keras.Sequential(
        [
            keras.Input(shape=x_train.shape[1:]),
            layers.Conv2D(32, 3, padding="same", use_bias=False),  # normalisation has a bias of its own
            layers.BatchNormalization(),
            layers.Activation("relu"),
            layers.MaxPooling2D(2),
            layers.Conv2D(64, 3, padding="same", use_bias=False),
            layers.BatchNormalization(),
            layers.Activation("relu"),
            layers.MaxPooling2D(2),
            layers.Dropout(0.25),
            layers.Flatten(),
            layers.Dense(128, activation="relu"),
            layers.Dropout(0.5),
            layers.Dense(len(data.class_names), activation="softmax"),
        ]
    )
    model.summary()
    model.compile(optimizer="adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    callbacks = [
        # Smaller steps where the validation loss no longer falls; the best weights, where that does not help either.
        keras.callbacks.ReduceLROnPlateau(factor=0.3, patience=2),
        keras.callbacks.EarlyStopping(patience=5, restore_best_weights=True),
    ]
    model.fit(x_train, y_train, batch_size=128, epochs=options.epochs, validation_split=0.1, callbacks=callbacks)
    loss, accuracy = model.evaluate(x_test, y_test, verbose=0)
    print(f"Test loss:     {loss:.4f}")
    print(f"Test accuracy: {accuracy:.4f}")
    if options.seed is not None:
        print(keras.distribution.receipt(model))

    if options.report:
        from tinyconv.inspect.report import training_report

        title = f"Fashion-MNIST, test accuracy {accuracy:.2%}"
        picture = training_report(model.history.history, x_test, y_test, model.predict(x_test), data.class_names, title)
        picture.savefig(options.report)


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train a convolutional network to tell clothes apart.")
    parser.add_argument("--epochs", type=int, default=30, help="at most so many passes over the training images (30)")
    parser.add_argument("--seed", type=int, help="an integer that makes the run repeatable")
    parser.add_argument("--data-dir", help="where TensorFlow Datasets keeps its data (~/tensorflow_datasets)")
    parser.add_argument("--manual-dir", help="a folder with the four files, downloaded by hand")
    parser.add_argument("--report", metavar="PATH", help="a picture to draw")
    return parser.parse_args()


if __name__ == "__main__":
    main()
