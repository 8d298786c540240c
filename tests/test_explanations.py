"""Explanations: of every layer, loss and optimiser the terms add up to the number in the array."""

import inspect
import json
import runpy
from xml.etree import ElementTree

import numpy as np
import pytest

import tinyconv
from tests.test_trace import batch, digits, pairs, siamese
from tinyconv import activations, layers, losses, optimizers
from tinyconv.kernels.reference import loss
from tinyconv.kernels.reference.activation import FORMULAS
from tinyconv.layers.merge import Merge
from tinyconv.plan import ops
from tinyconv.trace.explain import EXPLAINERS
from tinyconv.trace.explanation import LINES, reference_to
from tinyconv.trace.formula import as_mathml, as_text
from tinyconv.trace.pointwise import SIGNS

IMAGE = (6, 5, 2)

# Layers in configurations that tell something: by name, what to call them with, on images if nothing else is said.
LAYERS = {
    "Activation": [{"activation": "tanh"}, {"activation": "softmax"}],
    "Add": [{}],
    "Average": [{}],
    "AveragePooling2D": [{"pool_size": 3, "strides": 2, "padding": "same"}],
    "BatchNormalization": [{}, {"center": False, "scale": False}, {"trainable": False}],
    "Concatenate": [{}, {"axis": 1}],
    "Conv2D": [
        {"filters": 3, "kernel_size": (3, 2), "strides": 2, "padding": "same", "activation": "relu"},
        {"filters": 2, "kernel_size": 2, "dilation_rate": 2, "use_bias": False},
        {"filters": 2, "kernel_size": 3, "kernel_regularizer": "l2", "bias_regularizer": "l1"},
    ],
    "Conv2DTranspose": [{"filters": 3, "kernel_size": 3, "strides": 2, "padding": "same", "activation": "elu"}],
    "Dense": [{"units": 4, "activation": "gelu"}, {"units": 3, "activation": "softmax", "use_bias": False}],
    "DepthwiseConv2D": [{"kernel_size": 2, "depth_multiplier": 2, "activation": "relu", "padding": "same"}],
    "Dropout": [{"rate": 0.4}, {"rate": 0.0}],
    "ELU": [{}],
    "Flatten": [{}],
    "GlobalAveragePooling2D": [{}, {"keepdims": True}],
    "GlobalMaxPooling2D": [{}],
    "LayerNormalization": [{}, {"axis": [1, 2, 3], "center": False}],
    "LeakyReLU": [{}],
    "MaxPooling2D": [{}, {"pool_size": 3, "strides": 2, "padding": "same"}],
    "Maximum": [{}],
    "Minimum": [{}],
    "Multiply": [{}],
    "RandomFlip": [{}],
    "RandomRotation": [{"factor": 0.2, "fill_mode": "wrap"}],
    "RandomShear": [{"x_factor": (0.3, 0.5), "fill_mode": "constant", "fill_value": 0.5}],
    "RandomTranslation": [{"height_factor": 0.4, "width_factor": 0.3, "interpolation": "nearest"}],
    "RandomZoom": [{"height_factor": (0.5, 0.9)}],
    "ReLU": [{}, {"max_value": 0.5, "negative_slope": 0.1, "threshold": 0.1}],
    "Rescaling": [{"scale": 0.5, "offset": 0.25}],
    "Reshape": [{"target_shape": (5, 12)}],
    "SeparableConv2D": [{"filters": 3, "kernel_size": 3, "depth_multiplier": 2, "activation": "swish"}],
    "Softmax": [{}],
    "Subtract": [{}],
    "UpSampling2D": [{"size": (2, 3)}],
    "ZeroPadding2D": [{"padding": ((1, 0), (2, 1))}],
}
NOT_LAYERS = {"Input", "InputLayer", "Layer", "WeightSpec"}
CASES = [
    (name, number)
    for name in layers.__all__
    if name not in NOT_LAYERS and inspect.isclass(kind := getattr(layers, name)) and kind.__name__ == name  # once each
    for number in range(len(LAYERS.get(name, [None])))
]


def around(layer, merges):
    """A small model with that layer in its middle, whose input comes from a layer that is trained."""
    image = tinyconv.Input(IMAGE)
    before = layers.Conv2D(2, 1, activation="relu", name="before")(image)
    other = layers.Conv2D(2, 1, name="other")(image)
    joined = [before, other, image][: 2 if isinstance(layer, layers.Subtract) else 3]
    middle = layer(joined if merges else before)
    out = layers.Dense(2, name="after")(layers.Flatten(name="flat")(middle))
    return tinyconv.Model(image, out)


def places(array, rng, count=2):
    """Random places, and that of the largest number."""
    found = [tuple(int(rng.integers(size)) for size in array.shape) for _ in range(count)]
    return [*found, tuple(int(i) for i in np.unravel_index(np.abs(array).argmax(), array.shape))] if array.size else []


def add_up(explanation, array, place, rounding=0.0):
    """Whether an explanation is one of the number that stands there."""
    assert explanation.value == array[place]
    values = explanation.terms.values
    size = np.abs(values).sum() + abs(explanation.result)
    assert abs(values.sum() - explanation.sum) <= 1e-12 * size
    for i in {0, len(values) // 2, len(values) - 1} if len(values) else ():
        term = explanation.terms[i]
        assert term.value == values[i]
        assert abs(np.prod([factor.value for factor in term.factors]) - term.value) <= 1e-12 * abs(term.value)
    error = abs(explanation.result - float(array[place]))
    assert error <= 2e-6 * size + rounding + 1e-9, repr(explanation)
    assert 1 <= len(explanation.sentences) <= 5
    assert explanation.reference.marked_code
    assert "\\" not in as_text(explanation.formula)
    ElementTree.fromstring(as_mathml(explanation.formula))


def everything(trace, rng, count=2, names=()):
    """Explain numbers of all arrays of a trace, or of these layers of it."""
    for name in names or trace:
        layer = trace[name]
        for what in dir(layer) if hasattr(layer, "layer") else ("losses", "dinput"):
            array = getattr(layer, what)
            for place in places(array, rng, count):
                add_up(layer.explain(what, place), array, place)
        for own, weight in getattr(layer, "weights", {}).items():
            for what, array in {"step": weight.step, **weight.moments}.items() if weight.moments else ():
                for place in places(array, rng, count):
                    add_up(layer.explain(what, own, place), array, place, 2e-7 * np.abs(weight.value).max())


@pytest.mark.parametrize(("name", "number"), CASES)
def test_every_layers_numbers_add_up(name, number):
    assert name in LAYERS, f"LAYERS has no {name}: what does it take to explain it?"
    tinyconv.utils.set_random_seed(2)
    layer = getattr(layers, name)(**LAYERS[name][number], name="middle")
    model = around(layer, merges=isinstance(layer, Merge))
    model.compile(optimizers.SGD(0.1, momentum=0.9), "mse", backend="reference")
    rng = np.random.default_rng(3)
    x, y = rng.standard_normal((3, *IMAGE), np.float32), rng.standard_normal((3, 2), np.float32)
    everything(model.trace(x, y), rng, names=["before", "middle"])
    forward = model.trace(x)["middle"]
    for place in places(forward.output, rng):
        add_up(forward.explain("output", place), forward.output, place)


@pytest.mark.parametrize("name", ["Add", "Average", "Maximum", "Minimum", "Multiply", "Subtract"])
def test_merges_that_repeat_axes_add_up(name):
    """An image with a number for each channel, and with a row: their gradients are sums over what they count for."""
    tinyconv.utils.set_random_seed(2)
    image = tinyconv.Input(IMAGE)
    channels = layers.GlobalAveragePooling2D()(layers.Conv2D(2, 1, activation="relu", name="before")(image))
    row = layers.AveragePooling2D((6, 1), name="row")(image)
    joined = [image, row, channels] if name != "Subtract" else [channels, row]
    out = layers.Dense(2)(layers.Flatten()(getattr(layers, name)(name="middle")(joined)))
    model = tinyconv.Model(image, out)
    model.compile("sgd", "mse", backend="reference")
    rng = np.random.default_rng(3)
    trace = model.trace(rng.standard_normal((3, *IMAGE)), rng.standard_normal((3, 2)))
    everything(trace, rng, names=["middle"])
    assert trace.check(2).ok


def test_every_op_has_an_explainer():
    found = {op for op in vars(ops).values() if inspect.isclass(op) and issubclass(op, ops.Op)}
    fused = {ops.Conv2DReluMaxPool2D, ops.BatchNormReluMaxPool2D, ops.BatchNormAddRelu}
    assert set(EXPLAINERS) == found - fused - {ops.Op, ops.TrainingOnly}
    assert set(SIGNS) == set(FORMULAS)


@pytest.mark.parametrize(
    "name",
    [
        name
        for name in activations.__all__
        if isinstance(getattr(activations, name), type(lambda: 0)) and name not in ("get", "serialize", "deserialize")
    ],
)
def test_every_activation_adds_up(name):
    model = tinyconv.Sequential([tinyconv.Input((6,)), layers.Dense(5, activation=name), layers.Dense(2)])
    model.compile("sgd", "mse", backend="reference")
    rng = np.random.default_rng(3)
    everything(model.trace(rng.standard_normal((4, 6)), rng.standard_normal((4, 2))), rng, names=["dense"])


# Of every loss: arguments, and what the model ends with.
LOSSES = {
    "BinaryCrossentropy": [({}, "sigmoid"), ({"from_logits": True, "label_smoothing": 0.1}, None), ({}, "softmax")],
    "CategoricalCrossentropy": [({}, "softmax"), ({"label_smoothing": 0.2}, "sigmoid"), ({"from_logits": True}, None)],
    "SparseCategoricalCrossentropy": [({}, "softmax"), ({"reduction": "sum"}, "softmax")],
    "MeanSquaredError": [({"reduction": "mean_with_sample_weight"}, "tanh")],
    "MeanAbsoluteError": [({}, None)],
    "Huber": [({"delta": 0.3}, None)],
}
LOSS_CASES = [
    (name, number)
    for name, loss in inspect.getmembers(losses, inspect.isclass)
    if name in losses.__all__ and name != "Loss"
    for number in range(len(LOSSES.get(name, [None])))
]


@pytest.mark.parametrize("fuse", [True, False])
@pytest.mark.parametrize(("name", "number"), LOSS_CASES)
def test_every_losss_numbers_add_up(name, number, fuse):
    assert name in LOSSES, f"LOSSES has no {name}: what does it take to explain it?"
    arguments, activation = LOSSES[name][number]
    tinyconv.utils.set_random_seed(4)
    model = tinyconv.Sequential(
        [tinyconv.Input((5, 6)), layers.Dense(3, activation=activation, kernel_regularizer="l2")]
    )
    model.compile("adam", getattr(losses, name)(**arguments), backend="reference", fuse=fuse)
    rng = np.random.default_rng(3)
    x, labels = rng.standard_normal((4, 5, 6), np.float32), rng.integers(0, 3, (4, 5))
    y = labels if name.startswith("Sparse") else np.eye(3, dtype=np.float32)[labels]
    for weights in (None, np.array([0, 1, 2, 0.5], np.float32)):
        trace = model.trace(x, y, sample_weight=weights)
        everything(trace, rng, names=["dense", "loss"])
        whole = trace.explain_loss()
        assert whole.result == pytest.approx(trace.loss, rel=1e-5)
        assert len(whole.terms) == 20 + 1


OPTIMIZERS = {
    "Adam": [{"clipnorm": 0.1}, {"weight_decay": 0.1}],
    "AdamW": [{"clipvalue": 0.01}],
    "RMSprop": [{}, {"momentum": 0.5, "centered": True, "global_clipnorm": 0.2}],
    "SGD": [{}, {"momentum": 0.9}, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.2}],
}
OPTIMIZER_CASES = [
    (name, number)
    for name, kind in inspect.getmembers(optimizers, inspect.isclass)
    if name in optimizers.__all__ and name != "Optimizer"
    for number in range(len(OPTIMIZERS.get(name, [None])))
]


@pytest.mark.parametrize(("name", "number"), OPTIMIZER_CASES)
def test_every_optimizers_numbers_add_up(name, number):
    assert name in OPTIMIZERS, f"OPTIMIZERS has no {name}: what does it take to explain it?"
    tinyconv.utils.set_random_seed(4)
    model = tinyconv.Sequential([tinyconv.Input((6,)), layers.Dense(3), layers.Dense(2)])
    schedule = optimizers.schedules.ExponentialDecay(0.02, 10, 0.5)
    model.compile(getattr(optimizers, name)(schedule, **OPTIMIZERS[name][number]), "mse", backend="reference")
    rng = np.random.default_rng(3)
    x, y = rng.standard_normal((4, 6), np.float32), rng.standard_normal((4, 2), np.float32)
    for _ in range(2):
        everything(model.trace(x, y), rng, names=["dense"])
        model.train_on_batch(x, y)


def test_forks_shared_layers_and_models_within_add_up():
    rng = np.random.default_rng(3)
    trace = siamese().trace(*pairs())
    everything(trace, rng)
    assert len(trace["shared"].explain("dkernel", (0, 0)).terms) == 8 + 1  # two uses of four samples, and the penalty
    fork = trace["enc/code"].explain("doutput", (0, 0))
    assert [term.factors[0].name for term in fork.terms] == ["shared: dinput", "mean: dinput_2", "product: dinput_0"]
    assert "added in this order" in fork.sentences[0]
    assert trace["enc/code"].explain("doutput", (0, 0)).terms[2].why == "no loss depends on it"


class Doubled(layers.Layer):
    """A user's own layer."""

    def weight_specs(self, input_shape):
        return [layers.WeightSpec("factor", (1,), tinyconv.initializers.Ones())]

    def forward(self, out, x, weights):
        out[...] = 2 * x * weights["factor"]

    def backward(self, dx, dweights, dout, x, out, weights):
        dx[...] = 2 * dout * weights["factor"]
        dweights["factor"][0] = (dout * 2 * x).sum()


def own(*between):
    """A small network with these layers in it, and a trace of it."""
    model = tinyconv.Sequential([tinyconv.Input((6,)), layers.Dense(3, name="first"), *between, layers.Dense(2)])
    model.compile("sgd", "mse", backend="reference")
    rng = np.random.default_rng(3)
    return model.trace(rng.standard_normal((4, 6)), rng.standard_normal((4, 2)))


def test_own_layers_explain_as_far_as_they_can():
    """A gradient is measured: which outputs a number moves, and how fast."""
    trace = own(Doubled(name="own"))
    everything(trace, np.random.default_rng(0))
    told = trace["own"].explain("output", (0, 1))
    assert told.reference.file == "test_explanations.py"
    assert told.reference.marked_code == 'out[...] = 2 * x * weights["factor"]'
    moved = trace["own"].explain("dinput", (1, 2))
    assert [(term.factors[0].place, round(term.factors[1].value, 6)) for term in moved.terms] == [((1, 2), 2)]
    assert len(trace["own"].explain("dfactor", (0,)).terms) == 12
    assert len(moved.sentences) == 2


def test_a_file_of_somebody_s_own_is_shown_by_its_name_wherever_it_lies(tmp_path):
    """Below a folder "tinyconv" too, as a clone has it; the library's own are shown from the package on."""
    path = tmp_path / "tinyconv" / "mine.py"
    path.parent.mkdir()
    path.write_text("def double(x):\n    return 2 * x\n")
    assert reference_to(runpy.run_path(str(path))["double"]).file == "mine.py"
    assert reference_to(loss.softmax_cross_entropy_forward).file == "tinyconv/kernels/reference/loss.py"


def test_an_own_layer_with_a_wrong_gradient_shows_it():
    class Wrong(Doubled):
        def backward(self, dx, dweights, dout, x, out, weights):
            super().backward(dx, dweights, dout, x, out, weights)
            dx /= 2

    told = own(Wrong(name="own"))["own"].explain("dinput", (1, 2))
    assert "the backward pass is not the derivative of the forward pass" in told.sentences[-1]
    assert told.result == pytest.approx(2 * told.value, rel=1e-4)


def test_an_own_layer_that_draws_at_random_explains_nothing():
    class Noise(layers.Layer):
        def call(self, inputs):
            return inputs + np.random.default_rng().standard_normal(inputs.shape)

        def backward(self, dx, dweights, dout, x, out, weights):
            dx[...] = dout

    trace = own(Noise(name="own"))
    everything(trace, np.random.default_rng(0), names=["own"])
    told = trace["own"].explain("dinput", (1, 2))
    assert "the library does not know how" in told.sentences[0]
    assert trace["own"].explain("output", (1, 2)).reference.name == "call"


def test_zeros_say_why():
    """Of a dropped unit, a loser of the pool, a shut ReLU, the border, and a window that reaches outside."""
    trace = digits().trace(*batch())
    dropout, pool, conv = trace["dropout"], trace["max_pooling2d"], trace["conv2d"]
    dropped = tuple(int(i) for i in np.argwhere(dropout.output == 0)[0])
    assert dropout.explain("dinput", dropped).terms[0].why == "dropped"
    lost = tuple(int(i) for i in np.argwhere((pool.dinput == 0) & (pool.input > 0))[0])
    assert pool.explain("dinput", lost).terms[0].why.startswith("lost to row")
    assert conv.explain("dz", lost).terms[0].why == "lost the pool"
    shut = tuple(int(i) for i in np.argwhere(conv.z < 0)[0])
    assert conv.explain("dz", shut).terms[0].why == "ReLU shut"
    assert "ReLU is shut here" in conv.explain("output", shut).sentences[-1]
    told = conv.explain("dkernel", (0, 0, 0, 0))
    _, rest = told.shown()
    assert set(rest["reasons"]) == {"ReLU shut", "lost the pool"}
    assert sum(rest["reasons"].values()) == rest["zeros"]
    dense = trace["dense"].explain("dkernel", (dropped[1], 0))
    assert dense.terms[dropped[0]].why == "dropped"


def test_an_explanation_is_text_a_page_and_plain_data():
    conv = digits().trace(*batch())["conv2d"]
    told = conv.explain("dkernel", (1, 1, 0, 2))
    lines = str(told).splitlines()
    assert lines[0].startswith("conv2d, dkernel[1, 1, 0, 2] = ")
    sums = [i for i, line in enumerate(lines) if "──" in line]
    first = next(i for i, line in enumerate(lines) if " × dz" in line)
    assert sums[0] - first == LINES
    assert f"{len(told.terms) - LINES + 1} more" in lines[sums[0] - 1]
    assert "conv2d_backward (tinyconv/kernels/reference/conv.py, line" in lines[-1]
    data = json.loads(json.dumps(told.to_dict()))
    assert len(data["terms"]) == LINES - 1
    assert data["rest"]["count"] + len(data["terms"]) == data["count"] == 600
    assert sum(term["value"] for term in data["terms"]) + data["rest"]["sum"] == pytest.approx(data["sum"])
    assert data["call"] == "trace['conv2d'].explain('dkernel', (1, 1, 0, 2))"
    assert data["mathml"].startswith("<math")
    assert len(told.to_dict(limit=None)["terms"]) == 600
    assert "<table>" in told._repr_html_()
    assert repr(told).startswith("<conv2d, dkernel[1, 1, 0, 2] = ")
    step = conv.explain("step", "conv2d/kernel", (0, 0, 0, 1))
    assert step.call == "trace['conv2d'].explain('step', 'kernel', (0, 0, 0, 1))"
    assert {"g", "α_t", "momentum", "velocity", "θ"} <= {fact.name for fact in step.facts}


def test_what_cannot_be_explained_is_named():
    model = digits()
    trace = model.trace(*batch())
    with pytest.raises(ValueError, match=r"Layer 'conv2d': unknown array: 'dkernle'. Did you mean 'dkernel'"):
        trace["conv2d"].explain("dkernle", (0, 0, 0, 0))
    with pytest.raises(ValueError, match=r"No such place in 'conv2d', output, an array of shape \(6, 10, 10, 4\)"):
        trace["conv2d"].explain("output", (0, 10, 0, 0))
    with pytest.raises(ValueError, match=r"Expected 4 integers.*Received: 'x'"):
        trace["conv2d"].explain("output", "x")
    with pytest.raises(TypeError, match=r"takes one place"):
        trace["conv2d"].explain("output", 0, 1, 2, 3)
    with pytest.raises(TypeError, match="the name of a weight, and a place in it"):
        trace["conv2d"].explain("step", (0, 0, 0, 0))
    with pytest.raises(ValueError, match="is not trained in this step"):
        trace["batch_normalization"].explain("step", "moving_mean", (0,))
    with pytest.raises(ValueError, match=r"Unknown array of loss 'loss': 'output'"):
        trace["loss"].explain("output", (0,))
    with pytest.raises(ValueError, match=r"unknown array: 'doutput'"):
        model.trace(batch()[0])["conv2d"].explain("doutput", (0, 0, 0, 0))
    with pytest.raises(ValueError, match="has no loss"):
        model.trace(batch()[0]).explain_loss()


def test_formulas():
    latex = r"out_{n,f} = b_f + \sum_k x_{n,k} \cdot w_{k,f} + \frac{e^{x}}{\sqrt{v} + \epsilon}"
    assert as_text(latex) == "out[n,f] = b[f] + ∑[k] x[n,k] · w[k,f] + (e^x) / (√(v) + ε)"
    page = as_mathml(latex)
    assert "<msub><mi>out</mi><mrow><mi>n</mi><mo>,</mo><mi>f</mi></mrow></msub>" in page
    assert "<munder><mo>∑</mo><mrow><mi>k</mi></mrow></munder>" in page
    assert "<mfrac><mrow><msup><mi>e</mi>" in page


def test_several_losses_add_up():
    """With weights of outputs, of which one has none, and a batch normalisation that is used twice."""
    tinyconv.utils.set_random_seed(4)
    image = tinyconv.Input((6,))
    norm = layers.BatchNormalization(momentum=0.7, name="norm")
    x = norm(layers.Dense(4, name="first")(image))
    y = norm(layers.Activation("relu")(x))
    outputs = [layers.Dense(3, activation="softmax", name="kind")(y), layers.Dense(1, name="size")(x), y]
    model = tinyconv.Model(image, outputs)
    chosen = {"kind": "categorical_crossentropy", "size": "mae"}
    model.compile("adam", chosen, loss_weights={"kind": 2.0, "size": 0.5}, backend="reference")
    rng = np.random.default_rng(3)
    y = {"kind": np.eye(3)[rng.integers(0, 3, 5)], "size": rng.standard_normal((5, 1))}
    trace = model.trace(rng.standard_normal((5, 6)), y)
    everything(trace, rng)
    assert trace.explain_loss().result == pytest.approx(trace.loss, rel=1e-6)
    assert {"loss", "size_loss"} <= set(trace)
    assert "used 2 times" in trace["norm"].explain("new_moving_mean", (0,)).sentences[-1]
    assert trace.check(2).ok


def test_the_cpus_numbers_add_up_too():
    """Winograd's method rounds otherwise than the sum does."""
    everything(
        digits("cpu").trace(*batch()), np.random.default_rng(0), names=["conv2d", "batch_normalization", "dense"]
    )


def test_what_is_not_finite_is_shown():
    model = digits()
    weights = model.get_weights()
    weights[0][0, 0, 0, 1] = np.nan
    model.set_weights(weights)
    trace = model.trace(*batch())
    assert trace.first_broken == ("conv2d", "kernel")
    assert "The first NaN or infinity is in conv2d, kernel." in str(trace)
    told = trace["conv2d"].explain("output", (0, 0, 0, 1))
    assert "nan" in str(told)
    assert np.isnan(told.to_dict()["sum"])
    assert not trace.check(1).ok
