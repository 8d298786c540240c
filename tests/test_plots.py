"""Pictures: what they show is what the arrays hold; and the gradients behind them are true."""

import subprocess
import sys

import numpy as np
import pytest

import tinyconv
from tinyconv import layers
from tinyconv.inspect import explain, plots, report

pytest.importorskip("matplotlib")
from matplotlib.figure import Figure

from tests.strategies import few


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


@pytest.mark.long
def test_feature_maps_show_the_outputs_of_every_layer():
    model, x = network(), images()
    figure = drawn(plots.feature_maps(model, x[0], most=4))
    outputs = explain.layer_outputs(model, x[:1])
    assert len(figure.subfigs) == len(outputs) + 1
    shown = [image.get_array() for ax in figure.subfigs[1].axes for image in ax.get_images()]
    np.testing.assert_array_equal(np.stack(shown, axis=-1), outputs["first"][0])
    (steps,) = figure.subfigs[-1].axes[0].patches
    np.testing.assert_allclose(steps.get_data().values, outputs[model.layers[-1].name][0])


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
    draw = "from tinyconv.inspect import plots\nplots.training_curves({'loss': [1]})"
    code = f"import sys; sys.modules['matplotlib'] = None\n{draw}"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    last = result.stderr.strip().splitlines()[-1]
    assert last == "ImportError: Pictures need matplotlib: pip install 'tinyconv[plot]'"


def limits(figure):
    """The scale of every picture, and the numbers that stand beside the colour bars."""
    axes = figure.axes
    scales = {image.get_clim() for ax in axes for image in ax.get_images()}
    numbers = [[tick.get_text() for tick in ax.get_yticklabels()] for ax in axes if ax.get_label() == "<colorbar>"]
    return scales, numbers


def test_filters_share_a_scale_whose_numbers_are_beside_it():
    model = network()
    kernel = np.zeros((3, 3, 2, 4), np.float32)
    kernel[0, 0, :, 1], kernel[2, 1, 0, 2] = (0.5, 0.25), -0.5
    model.get_layer("first").set_weights([kernel, np.zeros(4)])
    figure = drawn(plots.filters(model))
    assert limits(figure) == ({(-0.375, 0.375)}, [["-0.38", "0", "0.38"]])
    assert figure.axes[-1].get_ylabel() == "weight, mean of 2 channels\n(one scale for all)"
    assert figure.get_suptitle() == "first: 4 filters"
    assert drawn(plots.filters(model, most=1)).get_suptitle() == "first: first 1 of 4 filters"


@pytest.mark.parametrize("channels", few([1, 2, 3]))
@pytest.mark.parametrize("value", [0, 1e-44, 1e-30, -1, 3e38])
def test_constant_filters_have_a_scale_too(channels, value):
    model = network(channels=channels)
    value = float(np.float32(value))
    model.get_layer("first").set_weights([np.full((3, 3, channels, 4), value), np.zeros(4)])
    scales, (numbers,) = limits(drawn(plots.filters(model)))
    assert len(set(numbers)) == 3
    if channels != 3:
        ((low, high),) = scales
        assert low <= value <= high
        assert high == pytest.approx(abs(value) or 1, rel=1e-6, abs=0)


@pytest.mark.long
def test_every_layer_has_a_scale_of_its_own():
    model, x = network(), images()
    figure = drawn(plots.feature_maps(model, x[0], most=3))
    for row, output in zip(figure.subfigs[1:], explain.layer_outputs(model, x[:1]).values(), strict=True):
        if output.ndim == 4:
            shown = output[..., :3].astype(float)
            peak = np.abs(shown).max()
            low = -peak if shown.min() < 0 else 0
            assert limits(row) == ({(low, peak)}, [[f"{tick:.2g}" for tick in (low, (low + peak) / 2, peak)]])
    assert figure.subfigs[1].get_suptitle() == "first (4, 5, 4): first 3 of 4 channels, one scale"
    blank = drawn(plots.feature_maps(model, np.zeros_like(x[0])))
    assert limits(blank.subfigs[0]) == ({(0, 1)}, [["0", "0.5", "1"]])


def test_saliency_has_numbers_beside_its_colours():
    model, x = network(), images()
    gradient = np.abs(explain.input_gradient(model, x[:1], [1])[0]).max()
    _, numbers = limits(drawn(plots.saliency(model, x[0], 1)))
    assert numbers == [["0", f"{gradient / 2:.2g}", f"{gradient:.2g}"]]


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (np.array([[0, 51], [102, 204]], np.uint8), [[0, 0.2], [0.4, 0.8]]),
        (np.array([[0, 51], [102, 204]], np.int64), [[0, 0.2], [0.4, 0.8]]),
        (np.array([[0, 0.2], [0.4, 0.8]]), [[0, 0.2], [0.4, 0.8]]),
        (np.array([[0.0, 50], [100, 200]]), [[0, 0.25], [0.5, 1]]),
        (np.array([[-1.0, 0], [0, 3]]), [[0, 0.25], [0.25, 1]]),
        (np.zeros((2, 2)), [[0, 0], [0, 0]]),
        (np.array([[[0.5, 9], [1, 9]]]), [[0.5, 1]]),
    ],
)
def test_no_image_is_cut_off(image, expected):
    ax = Figure().subplots()
    report.draw_image(ax, image)
    np.testing.assert_allclose(ax.get_images()[0].get_array(), expected)
    assert ax.get_images()[0].get_clim() == (0, 1)


def test_names_are_shown_as_they_are():
    """No name is read as a formula, and none is longer than its place."""
    predictions, names = np.array([[0.9, 0.1], [0.8, 0.2]]), ["$\\frac$", "x" * 500]
    figure = drawn(report.training_report({"loss": [1]}, np.zeros((2, 4, 4)), [0, 1], predictions, names, "$^$"))
    assert figure.get_suptitle() == "$^$: 1 of 2 wrong"
    worst = plots.worst_mistakes(np.zeros((2, 4, 4)), [1, 0], predictions, names)
    assert worst.axes[0].get_title() == "is xxxxxxxxxxx...\nsaid $\\frac$ (90%)"
    figure = drawn(plots.confusion([0, 1], predictions, names))
    assert [tick.get_text() for tick in figure.axes[0].get_yticklabels()] == ["$\\frac$", "x" * 27 + "..."]
    drawn(plots.training_curves({"$_$": [1.0]}))
    model = tinyconv.Sequential([tinyconv.Input((4, 4, 1)), layers.Conv2D(1, 3, name="$^$")])
    assert drawn(plots.filters(model)).get_suptitle() == "$^$: 1 filter"
    drawn(plots.feature_maps(model, np.zeros((4, 4, 1))))


def test_many_classes_have_a_colour_bar_instead_of_numbers():
    rng = np.random.default_rng(0)
    figure = drawn(plots.confusion(rng.integers(0, 30, 99), rng.random((99, 30))))
    assert figure.axes[1].get_ylabel().startswith("mistakes")
    assert not figure.axes[0].texts


@pytest.mark.long
def test_scores_are_not_shown_as_percentages():
    figure = plots.worst_mistakes(np.zeros((1, 4, 4)), [0], np.array([[-3.0, 12.5]]))
    assert figure.axes[0].get_title() == "is 0\nsaid 1 (12.5)"


def test_every_curve_is_drawn_gaps_included():
    figure = drawn(plots.training_curves({"loss": [1.0, None, 3.0], "val_extra": np.array([2.0])}))
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["loss", "extra"]
    np.testing.assert_array_equal(figure.axes[0].get_lines()[0].get_ydata(), [1, np.nan, 3])
    drawn(plots.training_curves({}))


BAD = np.full((6, 7, 2), np.nan)
P = np.array([[0.9, 0.1], [0.2, 0.8]])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda m: plots.training_curves([1.0]), TypeError, "Invalid history. Expected a dict"),
        (lambda m: plots.training_curves(m.fit), TypeError, "Invalid history"),
        (lambda m: plots.training_curves(tinyconv.callbacks.History()), TypeError, "Fix: its attribute history"),
        (lambda m: plots.training_curves({1: [1.0]}), TypeError, "Invalid name in the history"),
        (lambda m: plots.training_curves({"loss": 1.0}), ValueError, "a list of numbers, one per epoch"),
        (lambda m: plots.training_curves({"loss": [[1.0]]}), ValueError, "a list of numbers, one per epoch"),
        (lambda m: plots.training_curves({"loss": ["low"]}), TypeError, "The history's 'loss': unsupported type"),
        (lambda m: plots.filters("model"), TypeError, "Invalid model. Expected a Sequential"),
        (lambda m: plots.filters(m, "frist"), ValueError, "Did you mean 'first'?"),
        (lambda m: plots.filters(m, 0), ValueError, "Unknown layer: 0"),
        (lambda m: plots.filters(m, most=0), ValueError, "Invalid most of filters"),
        (lambda m: plots.filters(m, most="all"), ValueError, "Invalid most of filters"),
        (lambda m: plots.filters(tinyconv.Sequential([tinyconv.Input((3,))])), ValueError, "no Conv2D"),
        (lambda m: plots.feature_maps(None, images()[0]), TypeError, "Invalid model"),
        (lambda m: plots.feature_maps(m, images(1)), ValueError, "Fix: give one sample, x[0]"),
        (lambda m: plots.feature_maps(m, images()[0, ..., 0]), ValueError, "Expected one sample, of shape (6, 7, 2)"),
        (lambda m: plots.feature_maps(m, "image"), TypeError, "The image: unsupported type"),
        (lambda m: plots.feature_maps(m, BAD), ValueError, "The image: a NaN or an infinity, first at [0, 0, 0]"),
        (lambda m: plots.feature_maps(m, images()[0], most=-1), ValueError, "Invalid most of feature_maps"),
        (lambda m: plots.saliency(m, BAD), ValueError, "The image: a NaN"),
        (lambda m: plots.saliency(m, images()[0], 3), ValueError, "Invalid label of saliency. Expected an integer"),
        (lambda m: plots.saliency(m, images()[0], "a"), ValueError, "Invalid label of saliency"),
        (lambda m: plots.confusion([0, 2], P), ValueError, "from 0 to 1, as there are predictions for 2 classes"),
        (lambda m: plots.confusion([0, -1], P), ValueError, "Received: -1 at position 1"),
        (lambda m: plots.confusion([0, 0.5], P), ValueError, "Received: 0.5 at position 1"),
        (lambda m: plots.confusion([0, np.nan], P), ValueError, "Received: nan at position 1"),
        (lambda m: plots.confusion(P, P), ValueError, "Fix: y.argmax(axis=1)"),
        (lambda m: plots.confusion([0, 1], [0, 1]), ValueError, "do not fit"),
        (lambda m: plots.confusion([0, 1], P[:, :1]), ValueError, "Fix: np.hstack([1 - p, p])"),
        (lambda m: plots.confusion([], np.zeros((0, 2))), ValueError, "There are no predictions"),
        (lambda m: plots.confusion(["a", "b"], P), TypeError, "The labels: unsupported type"),
        (lambda m: plots.confusion([0, 1], P * np.nan), ValueError, "The predictions: a NaN"),
        (lambda m: plots.confusion([0, 1], P, ["a"]), ValueError, "a list of 2 names"),
        (lambda m: plots.confusion([0, 1], P, "ab"), ValueError, "a list of 2 names"),
        (lambda m: plots.worst_mistakes(images(3), [0, 1], P), ValueError, "one image for each of 2 labels"),
        (lambda m: plots.worst_mistakes(np.zeros((2, 42)), [0, 1], P), ValueError, "The images do not fit"),
        (lambda m: plots.worst_mistakes([BAD, BAD], [0, 1], P), ValueError, "The images: a NaN"),
        (lambda m: report.training_report({}, images(2), [0, 2], P), ValueError, "A label is out of range"),
        (lambda m: report.training_report([], images(2), [0, 1], P), TypeError, "Invalid history"),
        (lambda m: report.training_report({}, images(3), [0, 1], P), ValueError, "The images do not fit"),
    ],
)
def test_what_cannot_be_drawn_is_refused(call, error, message):
    with pytest.raises(error) as raised:
        call(network())
    assert message in str(raised.value)


def test_numbers_that_have_no_colour_are_named():
    model = network()
    model.get_layer("first").set_weights([np.full((3, 3, 2, 4), np.nan), np.zeros(4)])
    with pytest.raises(ValueError, match="The kernel of layer 'first': a NaN or an infinity"):
        plots.filters(model)
    with pytest.raises(ValueError, match="The output of layer 'first': a NaN or an infinity"):
        plots.feature_maps(model, images()[0])
    with pytest.raises(ValueError, match=r"The output of model .*: a NaN or an infinity"):
        plots.saliency(model, images()[0])


def test_filters_of_models_within_are_named_by_their_path():
    base = tinyconv.Sequential([tinyconv.Input((8, 8, 1)), tinyconv.layers.Conv2D(2, 3, name="conv")], name="base")
    model = tinyconv.Sequential([base, tinyconv.layers.Conv2D(3, 3, name="last")])
    titles = [plots.filters(model, name).get_suptitle() for name in (None, "base/conv", "last")]
    assert ["base/conv" in titles[0], "base/conv" in titles[1], "last" in titles[2]] == [True] * 3
