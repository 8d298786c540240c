"""model.trace: a step of training as an object."""

import copy

import numpy as np
import pytest

import tinyconv
from tinyconv import layers
from tinyconv.trace.check import Nudged
from tinyconv.trace.explainer import ZEROS


def digits(backend="reference", fuse=True, **settings):
    """A small network of the usual layers, after one step."""
    tinyconv.utils.set_random_seed(5)
    model = tinyconv.Sequential(
        [
            tinyconv.Input((12, 12, 1)),
            layers.Conv2D(4, 3, activation="relu"),
            layers.MaxPooling2D(2),
            layers.BatchNormalization(),
            layers.Flatten(),
            layers.Dropout(0.5),
            layers.Dense(10, activation="softmax", kernel_regularizer="l2"),
        ]
    )
    settings = {"loss": "sparse_categorical_crossentropy", "optimizer": "adam", **settings}
    model.compile(backend=backend, fuse=fuse, metrics=["accuracy"], **settings)
    x, y = batch()
    model.train_on_batch(x, y)
    return model


def batch(samples=6):
    rng = np.random.default_rng(0)
    return rng.standard_normal((samples, 12, 12, 1), np.float32), rng.integers(0, 10, samples)


def siamese(backend="reference"):
    """An encoder that is called twice, a shared layer, a fork, and two outputs of which one has no loss."""
    tinyconv.utils.set_random_seed(3)
    image = tinyconv.Input((6, 6, 2))
    encoder = tinyconv.Model(
        image, layers.Dense(5, activation="tanh", name="code")(layers.Flatten()(image)), name="enc"
    )
    left, right = tinyconv.Input((6, 6, 2), name="left"), tinyconv.Input((6, 6, 2), name="right")
    a, b = encoder(left), encoder(right)
    shared = layers.Dense(5, name="shared", kernel_regularizer="l1")
    joined = layers.Average(name="mean")([shared(a), shared(b), a])
    same = layers.Dense(1, activation="sigmoid", name="same")(joined)
    model = tinyconv.Model([left, right], [same, layers.Multiply(name="product")([a, b])])
    model.compile("sgd", {"same": "binary_crossentropy"}, backend=backend)
    return model


def pairs():
    rng = np.random.default_rng(1)
    x = {name: rng.standard_normal((4, 6, 6, 2), np.float32) for name in ("left", "right")}
    return x, {"same": rng.integers(0, 2, (4, 1))}


def state_of(model):
    moments = [array for slot in model.optimizer_state().values() for array in slot.values()]
    return [array.tobytes() for array in (*model.get_weights(), *moments)], model.optimizer.iterations


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("fuse", [True, False])
def test_a_trace_is_the_next_step_and_changes_nothing(backend, fuse):
    model, (x, y) = digits(backend, fuse), batch()
    before = state_of(model)
    trace, again = model.trace(x, y), model.trace(x, y)
    assert state_of(model) == before
    for name, gradient in model.gradients(x, y).items():
        np.testing.assert_allclose(trace.weights[name].gradient, gradient, rtol=1e-4, atol=1e-6)
        assert trace.weights[name].new.tobytes() == again.weights[name].new.tobytes()
    assert model.train_on_batch(x, y)[0] == pytest.approx(trace.loss, rel=1e-6)
    names = [name for name, _, _ in model._specs()]
    for name, array in zip(names, model.get_weights(), strict=True):
        np.testing.assert_allclose(trace.weights[name].new, array, rtol=1e-4, atol=2e-6)
    moments = model.optimizer_state()
    for slot, name in (("momentum", "dense/kernel"), ("velocity", "conv2d/bias")):
        np.testing.assert_allclose(trace.weights[name].moments[slot], moments[slot][name], rtol=1e-4, atol=1e-8)


def test_a_trace_has_every_array():
    trace = digits().trace(*batch())
    assert list(trace)[1:] == ["conv2d", "max_pooling2d", "batch_normalization", "flatten", "dropout", "dense", "loss"]
    conv, dense = trace["conv2d"], trace["dense"]
    assert {name: getattr(conv, name).shape for name in dir(conv)} == {
        **dict.fromkeys(("output", "doutput", "z", "dz"), (6, 10, 10, 4)),
        **dict.fromkeys(("input", "dinput"), (6, 12, 12, 1)),
        **dict.fromkeys(("kernel", "dkernel", "new_kernel"), (3, 3, 1, 4)),
        **dict.fromkeys(("bias", "dbias", "new_bias"), (4,)),
    }
    np.testing.assert_array_equal(conv.output, np.maximum(conv.z, 0))
    np.testing.assert_array_equal(trace["flatten"].output, trace["flatten"].input.reshape(6, 100))
    probs = np.zeros((6, 10))
    probs[range(6), batch()[1]] = 1
    np.testing.assert_allclose(dense.dz, (dense.output - probs) / 6, atol=1e-7)
    np.testing.assert_array_equal(trace["loss"].dinput, dense.dz)
    np.testing.assert_array_equal(trace[next(iter(trace))].doutput, conv.dinput)
    moving = trace["batch_normalization"].weights["moving_mean"]
    assert moving.gradient is None
    assert (moving.new != moving.value).all()
    assert not conv.output.flags.writeable
    with pytest.raises(AttributeError, match=r"Layer 'conv2d': unknown array: 'dkernle'. Did you mean 'dkernel'"):
        conv.dkernle  # noqa: B018
    with pytest.raises(ValueError, match=r"race of model.*'conv2d_1'. Did you mean 'conv2d'"):
        trace["conv2d_1"]
    assert "conv2d_1" not in trace
    assert trace.get("conv2d_1") is None
    assert trace.get("conv2d") is conv


def test_shared_layers_and_models_within():
    model, (x, y) = siamese(), pairs()
    trace = model.trace(x, y)
    expected = ["enc/flatten", "enc/code", "enc/flatten:1", "enc/code:1", "shared", "shared:1", "mean", "same"]
    assert sorted(trace) == sorted([*expected, "left", "right", "product", "loss"])
    for name, gradient in model.gradients(x, y).items():
        np.testing.assert_allclose(trace.weights[name].gradient, gradient, rtol=1e-5, atol=1e-8)
    assert trace["shared"].dkernel is trace["shared:1"].dkernel
    mean = trace["mean"]
    np.testing.assert_allclose(mean.output, np.mean(mean.inputs, axis=0), rtol=1e-6)
    for dinput in mean.dinputs:
        np.testing.assert_allclose(dinput, mean.doutput / 3, rtol=1e-6)
    code = trace["enc/code"]  # read by the shared layer, by the mean and by the product, which has no loss
    np.testing.assert_allclose(code.doutput, trace["shared"].dinput + mean.dinputs[2], rtol=1e-5, atol=1e-9)
    assert not trace["product"].doutput.any()


def test_without_targets_a_trace_is_a_forward_pass():
    model, (x, y) = digits(), batch()
    trace = model.trace(x)
    np.testing.assert_array_equal(trace["dense"].output, model.predict(x))
    np.testing.assert_array_equal(trace["dropout"].output, trace["dropout"].input)
    assert trace.loss is trace["conv2d"].doutput is trace["conv2d"].dkernel is None
    bare = copy.deepcopy(model)
    bare.compile("sgd", backend="reference")
    np.testing.assert_array_equal(bare.trace(x, y)["dense"].output, trace["dense"].output)


def test_a_trace_weighs_samples():
    model, (x, y) = digits(), batch()
    weights = np.array([0, 1, 2, 0.5, 1, 1], np.float32)
    trace = model.trace(x, y, sample_weight=weights)
    assert trace["loss"].losses[0] == 0
    assert not trace["dense"].dz[0].any()
    assert model.train_on_batch(x, y, sample_weight=weights)[0] == pytest.approx(trace.loss, rel=1e-6)


def test_freezing_counts_as_for_the_next_step():
    tinyconv.utils.set_random_seed(1)
    model = tinyconv.Sequential([tinyconv.Input((4,)), layers.Dense(3), layers.BatchNormalization(), layers.Dense(2)])
    model.compile("sgd", "mse", backend="reference")
    model.layers[0].trainable = model.layers[1].trainable = False
    x, y = np.ones((3, 4)), np.zeros((3, 2))
    trace = model.trace(x, y)
    assert trace["dense"].dkernel is None
    before = model.get_weights()
    model.train_on_batch(x, y)
    for (name, _, _), array, old in zip(model._specs(), model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(trace.weights[name].new, array)
        assert (array == old).all() == (not name.startswith("dense_1"))


def test_a_trace_prints(monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    model, (x, y) = digits(), batch()
    trace = model.trace(x, y)
    assert repr(trace).startswith("<Trace of model 'sequential', step 2: 7 layers, loss ")
    assert "max_pooling2d" in str(trace)
    assert "<table>" in trace._repr_html_()
    assert "dkernel (3, 3, 1, 4)" in repr(trace["conv2d"])
    assert "forward only" in repr(model.trace(x))


@pytest.mark.parametrize("model_and_data", [(digits, batch), (siamese, pairs)])
def test_gradients_agree_with_central_differences(model_and_data):
    network, data = model_and_data
    trace = network().trace(*(data()))
    found = trace.check(2, seed=1)
    assert found.ok
    assert {each.verdict for each in found.rows} <= {"agrees", "kink"}
    names = {each.tensor for each in found.rows}
    for name, weight in trace.weights.items():
        layer, _, own = name.rpartition("/")
        assert (f"{layer}, d{own}" in names) == (weight.gradient is not None)
    assert f"{len(found.rows)} gradients: 0 wrong" in str(found)
    assert all(abs(each.exact - each.slope) <= 1e-6 for each in found.rows if each.verdict == "agrees")


def test_a_wrong_gradient_is_named():
    class Wrong(layers.Layer):
        def forward(self, out, x, weights):
            out[...] = x * x

        def backward(self, dx, dweights, dout, x, out, weights):
            dx[...] = dout * x

    model = tinyconv.Sequential(
        [tinyconv.Input((4,), name="input_layer"), layers.Dense(3, name="before"), Wrong(), layers.Dense(2)]
    )
    model.compile("sgd", "mse", backend="reference")
    rng = np.random.default_rng(0)
    found = model.trace(rng.standard_normal((3, 4)), rng.standard_normal((3, 2))).check(2)
    assert not found.ok
    wrong = {each.tensor for each in found.wrong}
    assert wrong == {"input_layer, doutput", "before, doutput", "before, dkernel", "before, dbias"}
    assert "WRONG" in str(found)
    assert "wrong" in repr(found)


def test_kinks_are_told_from_errors():
    model = tinyconv.Sequential([tinyconv.Input((2,)), layers.Dense(1, activation="relu", name="unit")])
    model.compile("sgd", "mse", backend="reference")
    model.set_weights([np.array([[1.0], [1.0]]), np.zeros(1)])
    trace = model.trace([[1.0, -1.0]], [[2.0]])  # the unit is exactly at zero
    found = {each.tensor: each for each in trace.check(1).rows}
    kink = found["unit, dz"]
    assert kink.verdict == "kink"
    assert (kink.gradient, kink.left) == (0, 0)
    assert kink.right == pytest.approx(-4)
    assert str(kink) == "a kink: left 0, right −4.0000"
    assert trace["unit"].nudge("dz", (0, 0)) == kink
    assert found["unit, doutput"].verdict == "agrees"


def test_one_gradient_can_be_nudged():
    trace = digits().trace(*batch())
    for layer, what, place in [
        ("conv2d", "dkernel", (1, 1, 0, 2)),
        ("conv2d", "dinput", (1, 2, 3, 0)),
        ("conv2d", "dz", (0, 3, 3, 2)),
        ("flatten", "doutput", (0, 5)),
        ("dense", "dz", (0, -1)),
    ]:
        nudged = trace[layer].nudge(what, place)
        assert nudged.verdict in ("agrees", "kink")
        assert nudged.gradient == getattr(trace[layer], what)[place]
    assert nudged.digits > 6
    assert nudged.losses[1] == pytest.approx(trace.loss, rel=1e-5)
    with pytest.raises(ValueError, match="The loss starts from the scores, before 'dense' makes probabilities"):
        trace["dense"].nudge("doutput", (0, 0))
    with pytest.raises(ValueError, match="'output' is not a gradient"):
        trace["dense"].nudge("output", (0, 0))
    with pytest.raises(ValueError, match="has other readers too"):
        siamese().trace(*pairs())["mean"].nudge("dinput_2", (0, 0))


def test_reasons_of_zeros_as_arrays():
    trace = digits().trace(*batch())
    conv, dropout = trace["conv2d"], trace["dropout"]
    reasons = np.array(ZEROS)[conv.zeros("dz")]
    assert ((reasons != "") == (conv.dz == 0)).all()
    assert (reasons[conv.z <= 0] == "ReLU shut").all()
    assert set(reasons[conv.z > 0].tolist()) == {"", "lost the pool"}
    assert (np.array(ZEROS)[dropout.zeros("dinput")] == "dropped")[dropout.output == 0].all()
    assert not conv.zeros("dkernel").any()


def test_a_layer_without_a_backward_pass_may_come_first():
    class Halved(layers.Layer):
        def forward(self, out, x, weights):
            out[...] = x / 2

    model = tinyconv.Sequential([tinyconv.Input((4,), name="pixels"), Halved(name="half"), layers.Dense(3)])
    model.compile("sgd", "mse", backend="reference")
    x, y = np.ones((2, 4), np.float32), np.zeros((2, 3), np.float32)
    trace = model.trace(x, y)
    assert trace["pixels"].doutput is trace["half"].doutput is None
    np.testing.assert_array_equal(trace["dense"].dkernel, model.gradients(x, y)["dense/kernel"])
    assert trace.check(1).ok


def test_a_callback_may_trace():
    """In the middle of a run, which goes on as if nothing had been asked."""
    x, y = batch()
    seen = []

    class Look(tinyconv.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append(self.model.trace(x, y))

    looked, alone = digits(), digits()
    looked.fit(x, y, batch_size=2, epochs=2, verbose=0, callbacks=[Look()])
    alone.fit(x, y, batch_size=2, epochs=2, verbose=0)
    assert state_of(looked) == state_of(alone)
    assert [trace.step for trace in seen] == [2, 3, 4, 5, 6, 7]


def test_warps_that_are_one_are_one_in_a_trace():
    """What the fused step computes better, a trace computes so too."""
    tinyconv.utils.set_random_seed(2)
    model = tinyconv.Sequential(
        [
            tinyconv.Input((6, 6, 1), name="image"),
            layers.RandomFlip(name="flip"),
            layers.RandomRotation(0.2, name="turn"),
            layers.RandomZoom(0.3, name="zoom"),
            layers.Flatten(),
            layers.Dense(2),
        ]
    )
    model.compile("sgd", "mse", backend="reference")
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((3, 6, 6, 1), np.float32), np.zeros((3, 2), np.float32)
    trace = model.trace(x, y)
    np.testing.assert_array_equal(trace["dense"].dkernel, model.gradients(x, y)["dense/kernel"])
    np.testing.assert_array_equal(trace["turn"].output, x)
    np.testing.assert_array_equal(trace["flip"].doutput, trace["zoom"].dinput)
    assert "one with that of the next" in trace["flip"].explain("dinput", (0, 0, 0, 0)).sentences[0]
    assert trace["image"].explain("doutput", (0, 2, 2, 0)).result == trace["image"].doutput[0, 2, 2, 0]
    assert trace.check(2).ok
    assert (trace["zoom"].zeros("dinput") == 0)[trace["zoom"].dinput != 0].all()


def test_what_is_not_finite_agrees_in_no_digit():
    assert Nudged("conv2d, dkernel", (0, 0), 1.0, 1.0, (0.0, np.nan, np.nan)).digits == 0
    assert Nudged("conv2d, dkernel", (0, 0), np.inf, np.inf, (0.0, 1.0, 2.0)).digits == 0
