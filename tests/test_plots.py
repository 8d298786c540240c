"""Pictures: what they show is what the arrays hold; and the gradients behind them are true."""

import subprocess
import sys

import numpy as np
import pytest

import tinyconv
from tinyconv import explain, layers, plots

pytest.importorskip("matplotlib")
from matplotlib.figure import Figure


def network(last="softmax", channels=2):
    """A network with everything that behaves differently in training, trained moving statistics included."""
    tinyconv.utils.set_random_seed(0)
    model = tinyconv.Sequential(
        [
            tinyconv.Input((6, 7, channels)),
            layers.Conv2D(4, 3, name="first"),
            layers.BatchNormalization(),
            layers.Activation("elu"),
            layers.Dropout(0.5),
            layers.AveragePooling2D(2),
            layers.Flatten(),
            layers.Dense(5, activation="tanh"),
            layers.BatchNormalization(scale=False),
            layers.Dense(3, activation=last),
        ]
    )
    model.compile(backend="reference")
    rng = np.random.default_rng(1)
    model.set_weights([w + rng.uniform(0, 0.5, w.shape) for w in model.get_weights()])
    return model


def images(count=3, channels=2):
    return np.random.default_rng(2).random((count, 6, 7, channels)).astype(np.float32)


def test_layer_outputs_end_in_what_predict_says():
    model, x = network(), images()
    outputs = explain.layer_outputs(model, x)
    assert list(outputs) == [layer.name for layer in model.layers]
    np.testing.assert_allclose(outputs[model.layers[-1].name], model.predict(x), rtol=1e-5)
    assert outputs["first"].shape == (3, 4, 5, 4)


@pytest.mark.parametrize("last", ["softmax", "sigmoid", "linear", "tanh"])
def test_the_input_gradient_is_the_derivative_of_the_score(last):
    """Central differences of what predict says, taken back to the scores."""
    model, x, classes = network(last), images(), [0, 2, 1]

    def scores(x):
        out = model.predict(x).astype(np.float64)
        out = {"softmax": np.log, "sigmoid": lambda p: np.log(p / (1 - p))}.get(last, lambda p: p)(out)
        return out[np.arange(3), classes] if last != "softmax" else out

    gradient = explain.input_gradient(model, x, classes)
    assert gradient.shape == x.shape
    rng, step = np.random.default_rng(3), 1e-2
    for _ in range(10):
        direction = rng.standard_normal(x.shape).astype(np.float32)
        difference = (scores(x + step * direction) - scores(x - step * direction)) / (2 * step)
        along = (gradient * direction).sum(axis=(1, 2, 3))
        if last == "softmax":  # the logarithm of a probability is the score less a number common to all classes
            others = [(c + 1) % 3 for c in classes]
            along = along - (explain.input_gradient(model, x, others) * direction).sum(axis=(1, 2, 3))
            difference = difference[np.arange(3), classes] - difference[np.arange(3), others]
        np.testing.assert_allclose(along, difference, rtol=0.02, atol=2e-3)


def test_the_model_is_as_before_an_input_gradient():
    model, x = network(), images()
    before, weights = model.predict(x), model.get_weights()
    explain.input_gradient(model, x, [0, 1, 2])
    np.testing.assert_array_equal(model.predict(x), before)
    for one, other in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_impossible_classes_are_named():
    with pytest.raises(ValueError, match=r"A label is out of range. Expected 0 to 2"):
        explain.input_gradient(network(), images(), [0, 1, 3])


def drawn(figure):
    """The figure, rendered."""
    assert isinstance(figure, Figure)
    figure.canvas.draw()
    return figure


def pictures(figure):
    """The arrays of all images in a figure."""
    found = [image.get_array() for ax in figure.axes for image in ax.get_images()]
    for part in getattr(figure, "subfigs", []):
        found += [array for array in pictures(part) if not any(array is other for other in found)]
    return found


def test_the_history_plots_every_value():
    model = network()
    model.compile("sgd", "categorical_crossentropy", metrics=["accuracy"], backend="reference")
    x, y = images(8), np.eye(3, dtype=np.float32)[[0, 1, 2, 0, 1, 2, 0, 1]]
    history = model.fit(x, y, epochs=3, validation_data=(x, y), verbose=0)
    figure = drawn(history.plot())
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["loss", "accuracy"]
    lines = figure.axes[0].get_lines()
    assert list(lines[0].get_ydata()) == history.history["loss"]
    assert list(lines[1].get_ydata()) == history.history["val_loss"]


@pytest.mark.parametrize("channels", [2, 3])
def test_filters_are_those_of_the_first_convolution(channels):
    model = network(channels=channels)
    kernel = model.get_layer("first").get_weights()[0]
    found = pictures(drawn(plots.filters(model)))
    assert len(found) == 4
    expected = kernel[..., 1] / (2 * np.abs(kernel).max()) + 0.5 if channels == 3 else kernel[..., 1].mean(axis=-1)
    np.testing.assert_allclose(found[1], expected, rtol=1e-6)
    with pytest.raises(ValueError, match=r"Layer 'flatten' has no filters to draw"):
        plots.filters(model, "flatten")


def test_feature_maps_show_the_outputs_of_every_layer():
    model, x = network(), images()
    figure = drawn(plots.feature_maps(model, x[0], most=4))
    outputs = explain.layer_outputs(model, x[:1])
    assert len(figure.subfigs) == len(outputs) + 1
    shown = [image.get_array() for ax in figure.subfigs[1].axes for image in ax.get_images()]
    np.testing.assert_array_equal(np.stack(shown, axis=-1), outputs["first"][0])
    heights = [bar.get_height() for bar in figure.subfigs[-1].axes[0].patches]
    np.testing.assert_allclose(heights, outputs[model.layers[-1].name][0])


def test_confusion_and_mistakes():
    predictions = np.array([[0.9, 0.1, 0], [0.2, 0.7, 0.1], [0.1, 0.8, 0.1], [0, 0, 1.0]])
    y = np.array([0, 1, 2, 2])
    shown = pictures(drawn(plots.confusion(y, predictions, ["a", "b", "c"])))[0]
    assert shown.tolist() == [[0, 0, 0], [0, 0, 0], [0, 1, 0]]  # the mistakes
    figure = drawn(plots.worst_mistakes(images(4), y, predictions))
    titles = [ax.get_title() for ax in figure.axes if ax.get_title()]
    assert titles == ["is 2\nsaid 1 (80%)"]
    with pytest.raises(ValueError, match=r"Labels and predictions do not fit. Expected \(N,\) integers"):
        plots.confusion(y[:2], predictions)


def test_saliency_shows_the_input_gradient():
    model, x = network(), images()
    shown = pictures(drawn(plots.saliency(model, x[0], 1)))
    gradient = np.abs(explain.input_gradient(model, x[:1], [1])[0]).max(axis=-1)
    np.testing.assert_allclose(shown[1], gradient, rtol=1e-6)
    said = int(model.predict(x[:1]).argmax())
    np.testing.assert_allclose(
        pictures(plots.saliency(model, x[0]))[1],
        np.abs(explain.input_gradient(model, x[:1], [said])[0]).max(axis=-1),
        rtol=1e-6,
    )


def test_without_matplotlib_the_message_says_what_to_install():
    code = (
        "import sys; sys.modules['matplotlib'] = None\nfrom tinyconv import plots\nplots.training_curves({'loss': [1]})"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    last = result.stderr.strip().splitlines()[-1]
    assert last == "ImportError: Pictures need matplotlib: pip install 'tinyconv[plot]'"
