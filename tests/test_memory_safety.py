"""No kernel touches memory that is not its own: gradients, the shapes of all arguments, guard zones, bounds."""

import concurrent.futures
import hashlib
import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

import tinyconv
from tests.strategies import few
from tinyconv import kernels, layers
from tinyconv.kernels import cpu, memory, reference, shapes
from tinyconv.plan.arena import Arena, Storage
from tinyconv.plan.graph import chain_of
from tinyconv.plan.lowering import lower
from tinyconv.plan.state import State

SETS = {"reference": reference, "cpu": cpu}
WORKSPACES = {name for name in kernels.contract() if name.endswith("_workspace")}

# Every letter of the rules, so that they fit each other: windows of 2 x 2 with stride 1 on 5 x 5 pixels.
SIZES = {"N": 2, "H": 5, "W": 5, "C": 3, "KH": 2, "KW": 2, "F": 4, "OH": 4, "OW": 4, "PH": 2, "PW": 2}
SIZES |= {"K": 6, "U": 7, "D": 8, "L": 12, "S": 6, "M": 4, "T": 16, "P": 9}
SIZES |= {"IH": 5, "IW": 5, "BH": 10, "BW": 10, "DM": 2, "CD": 6}
PARAMETERS = {"strides": (1, 1), "dilation": (1, 1), "pool_size": (2, 2), "padding": (0, 0), "relu": True, "slot": 1}
PARAMETERS |= {"nesterov": False, "layer": 0, "steps": 1, "samples": 2, "k": 2, "seed": 5, "rate": 0.5, "offset": 0}
PARAMETERS |= {"kind": "elu", "options": (0.5,), "corner": (0, 0), "power": 2, "normalize": True, "column": -1}
PARAMETERS |= {"size": (4, 5), "fill_mode": "reflect", "interpolation": "bilinear"}


def fitting(kernel):
    """Arguments that fit the kernel's rule."""
    arguments = {}
    for argument in shapes.read(shapes.RULES[kernel]):
        shape = tuple(SIZES[axis] if axis in SIZES else int(axis) for axis in argument.axes)
        if argument.workspace:
            arguments[argument.name] = np.zeros(10**6, np.float32)
        elif argument.name.endswith("_shape"):
            arguments[argument.name] = shape
        elif argument.axes:
            arguments[argument.name] = np.zeros(shape, argument.dtype or np.float32)
        else:
            arguments[argument.name] = PARAMETERS.get(argument.name, 0.5)
    return arguments


def wrong_values(kernel, argument, value):
    """What the argument must not be."""
    yield None
    if not argument.axes and not argument.workspace:
        yield from ("a", float("nan"), -1e400, np.zeros(3), (0.5, 1), (-1, 1))
        if argument.name == "slot":
            yield SIZES["T"]
        if argument.name == "options":
            yield from ((), (float("nan"),), ("a",))
        else:
            yield (1,)
        if argument.name == "corner":
            yield (6, 0)
        if argument.name == "offset":
            yield SIZES["D"] - SIZES["C"] + 1
        return
    if argument.name.endswith("_shape"):
        yield from (value[:-1], (*value, 1), (0, *value[1:]), (*value[:-1], value[-1] + 1), list(value))
        return
    yield from (value.tolist(), value.astype(np.complex64), value.astype(np.int16), value[..., None], value[0])
    if value.size > 1:
        yield np.zeros((*value.shape, 2), value.dtype)[..., 0]  # not contiguous
    if argument.workspace:
        if "prepare" not in kernel:
            yield value[:10]
        return
    if not argument.optional:
        yield np.zeros((0,) * value.ndim, value.dtype)
    others = [other for other in shapes.read(shapes.RULES[kernel]) if other.name != argument.name]
    if argument.dtype or any(other.axes and not other.dtype for other in others):  # else one float is like the other
        yield value.astype(np.float64 if argument.dtype != "float64" else np.float32)
    known = {axis for other in others for axis in other.axes} | set("HW") | {"OH", "OW", "PH", "PW"}
    for axis, letter in enumerate(argument.axes):
        if letter in known or letter.isdigit():
            more = list(value.shape)
            more[axis] += 2  # one more could be padding
            yield np.zeros(more, value.dtype)


def test_every_kernel_has_a_rule_for_each_of_its_arguments():
    assert set(shapes.RULES) == set(kernels.contract()) - WORKSPACES
    for kernel, rule in shapes.RULES.items():
        assert tuple(argument.name for argument in shapes.read(rule)) == kernels.contract()[kernel], kernel


@pytest.mark.parametrize("kernel", shapes.RULES)
def test_every_wrong_argument_of_every_kernel_is_refused(kernel):
    for kernel_set in SETS.values():
        right = fitting(kernel)
        shapes.check(kernel_set, kernel, right)
        for argument in shapes.read(shapes.RULES[kernel]):
            if argument.workspace and kernel_set is reference:
                continue  # it needs none
            for wrong in wrong_values(kernel, argument, right[argument.name]):
                with pytest.raises(ValueError, match=rf"Kernel {kernel}: wrong '\w+'. Expected .* Received: "):
                    shapes.check(kernel_set, kernel, right | {argument.name: wrong})
            if argument.optional:
                nothing = np.zeros((0,) * len(argument.axes), argument.dtype or np.float32)
                shapes.check(kernel_set, kernel, right | {argument.name: nothing})


def test_images_that_do_not_fit_each_other_are_refused():
    small, large = np.zeros((2, 5, 5, 3), np.float32), np.zeros((2, 10, 11, 3), np.float32)
    with pytest.raises(ValueError, match=r"wrong 'out'\. Expected a multiple of the 5 pixels.* Received: 11"):
        shapes.check(cpu, "upsample2d_forward", {"out": large, "x": small})
    with pytest.raises(ValueError, match=r"wrong 'dout'\. Expected a multiple"):
        shapes.check(cpu, "upsample2d_backward", {"dx": small, "dout": large})
    with pytest.raises(ValueError, match=r"wrong 'w'\. Expected filters that make 6 channels\. Received: 9 channels"):
        shapes.check(
            cpu,
            "depthwise_conv2d_forward",
            fitting("depthwise_conv2d_forward") | {"w": np.zeros((2, 2, 3, 3), np.float32)},
        )


def test_a_message_names_argument_expectation_and_what_was_given():
    arguments = fitting("dense_forward") | {"b": np.zeros(3, np.float32)}
    expected = (
        r"Kernel dense_forward: wrong 'b'\. Expected a C-contiguous array of float32, shape \(F\) with F = 4\. "
        r"Received: float32, shape \(3,\)\."
    )
    with pytest.raises(ValueError, match=expected):
        shapes.check(cpu, "dense_forward", arguments)


@pytest.mark.parametrize(
    "kernel", ["conv2d_prepare", "conv2d_transpose_prepare", "dense_prepare", "conv2d_relu_max_pool2d_prepare"]
)
def test_the_least_workspace_is_checked_where_only_the_filters_are_known(kernel):
    with pytest.raises(ValueError, match=r"wrong 'work'. Expected .* size >= \d+"):
        shapes.check(cpu, kernel, fitting(kernel) | {"work": np.zeros(3, np.float32)})


def test_both_floats_are_for_the_reference_only_and_never_mixed():
    arguments = {"out": np.zeros(3), "x": np.zeros(3), "kind": "relu", "options": ()}
    shapes.check(reference, "activation_forward", arguments)
    with pytest.raises(ValueError, match="of float32"):
        shapes.check(cpu, "activation_forward", arguments)
    with pytest.raises(ValueError, match=r"wrong 'x'\. Expected a C-contiguous array of float64"):
        shapes.check(reference, "activation_forward", arguments | {"x": np.zeros(3, np.float32)})


def state_of(kernel_set, stack, input_shape, learning=None):
    """A state for these layers; ``learning``: the weights that learn, by default all that are trainable."""
    specs, shape = {}, input_shape
    for layer in stack:
        specs |= {f"{layer.name}/{spec.name}": spec for spec in layer.weight_specs(shape)}
        shape = layer.output_shape(shape)
    learns = {key: spec.trainable if learning is None else key in learning for key, spec in specs.items()}
    arenas = [
        Arena({key: spec.shape for key, spec in specs.items() if learns[key] is kind}, kernel_set)
        for kind in (True, False)
    ]
    rng = np.random.default_rng(0)
    for arena in arenas:
        for key in arena.shapes:
            arena[key][...] = specs[key].initializer(arena[key].shape, rng)
    return State(kernel_set, *arenas)


def test_what_a_program_runs_before_and_after_the_plan_is_checked_too():
    stack = [layers.Dense(2, name="dense")]
    state = state_of(cpu, stack, (3,))
    plan = lower(chain_of(stack, (3,)), 4, state, training=False)
    data, order = np.zeros((5, 3), np.float32), np.arange(5)
    plan.program("forward", before=[(cpu.gather_rows, (plan.x, data, order, state.counters))])
    for wrong in ((plan.x, data[:, :2].copy(), order), (plan.x, data[:3], order[:3]), (plan.x, data, order[:4])):
        with pytest.raises(ValueError, match="Kernel gather_rows: wrong"):
            plan.program("forward", before=[(cpu.gather_rows, (*wrong, state.counters))])
    arguments = np.zeros((4, 2), np.float32), np.arange(5, dtype=np.int32), order, state.counters
    with pytest.raises(ValueError, match="Kernel gather_one_hot: wrong 'labels'"):
        plan.program("forward", before=[(cpu.gather_one_hot, arguments)])
    with pytest.raises(ValueError, match="Kernel scatter_rows: wrong 'x'"):
        plan.program("forward", after=[(cpu.scatter_rows, (data, plan.out, state.counters))])
    with pytest.raises(ValueError, match="Kernel advance: wrong 'counters'"):
        plan.program("forward", after=[(cpu.advance, (state.counters[:2], 1, 4))])


# Gradients only where something learns

WEIGHTLESS = {
    "flatten": [layers.Flatten],
    "linear": [lambda: layers.Activation("linear"), layers.Flatten],
    "dropout of nothing": [lambda: layers.Dropout(0), layers.Flatten],
    "dropout": [lambda: layers.Dropout(0.5), layers.Flatten],
    "softmax": [layers.Flatten, lambda: layers.Activation("softmax")],
    "sigmoid": [layers.Flatten, lambda: layers.Activation("sigmoid")],
    "relu": [lambda: layers.Activation("relu"), layers.Flatten],
    "leaky": [lambda: layers.LeakyReLU(0.1), layers.GlobalAveragePooling2D],
    "tanh, elu": [lambda: layers.Activation("tanh"), lambda: layers.Activation("elu"), layers.Flatten],
    "pooling": [lambda: layers.MaxPooling2D(2), lambda: layers.AveragePooling2D(2), layers.Flatten],
    "pooling, softmax": [layers.GlobalAveragePooling2D, lambda: layers.Activation("softmax")],
    "norm without weights": [lambda: layers.BatchNormalization(center=False, scale=False), layers.Flatten],
}
LOSSES = ["mse", "categorical_crossentropy", "binary_crossentropy", "sparse_categorical_crossentropy"]


def weightless(name, loss, backend, fuse=True):
    tinyconv.utils.set_random_seed(1)
    model = tinyconv.Sequential([tinyconv.Input((4, 4, 3)), *(make() for make in WEIGHTLESS[name])])
    model.compile(loss=loss, optimizer="adam", metrics=["accuracy"], backend=backend, fuse=fuse)
    rng = np.random.default_rng(3)
    x = rng.random((5, 4, 4, 3), np.float32)
    columns = model.output_shape[-1]
    labels = rng.integers(0, columns, 5)
    return model, x, labels if loss.startswith("sparse") else np.eye(columns, dtype=np.float32)[labels]


@pytest.mark.parametrize("backend", SETS)
@pytest.mark.parametrize("name", WEIGHTLESS)
@pytest.mark.long
def test_a_model_without_weights_trains_as_in_keras(name, backend):
    """Loss and metrics are computed, nothing moves, and there is no backward pass."""
    for loss in LOSSES:
        with memory.guarded():
            model, x, y = weightless(name, loss, backend, fuse=loss != "mse")
            with pytest.warns(UserWarning, match="does not have any trainable weights"):
                results = model.train_on_batch(x, y)
            assert np.isfinite(results).all()
            if name not in ("dropout", "norm without weights"):  # which behave otherwise at inference
                assert results == pytest.approx(model.evaluate(x, y, verbose=0), rel=1e-5)
            model.fit(x, y, batch_size=3, epochs=2, verbose=0)
            plan = model._trainer.plan(5, True, True)
        assert not plan.steps["backward"]
        assert not [name for name in plan.buffers if "/" in name and name.replace("/", "/d", 1) in plan.buffers]


def backward_of(stack, input_shape, learning, fuse=True, **more):
    state = state_of(reference, stack, input_shape, learning)
    plan = lower(chain_of(stack, input_shape), 2, state, training=True, fuse=fuse, **more)
    return plan, state, [(step.name, step.kernel_name) for step in plan.steps["backward"]]


def test_a_frozen_prefix_costs_no_backward_pass():
    stack = [
        layers.Conv2D(4, 3, activation="relu", name="conv"),
        layers.MaxPooling2D(2, name="pool"),
        layers.Dropout(0.25, name="drop"),
        layers.BatchNormalization(name="norm"),
        layers.Flatten(name="flat"),
        layers.Dense(3, activation="relu", name="hidden"),
        layers.Dense(2, name="head"),
    ]
    plan, _, found = backward_of(stack, (8, 8, 2), {"head/kernel", "head/bias"})
    assert found == [("head", "dense_backward")]
    (step,) = plan.steps["backward"]
    assert step.arguments["dx"].size == 0
    assert plan.dx.size == 0
    _, _, found = backward_of(stack, (8, 8, 2), {"norm/beta"})
    assert [name for name, _ in found] == ["head", "hidden", "hidden", "norm"]
    _, _, found = backward_of(stack, (8, 8, 2), {"conv/bias"})
    assert found[-1] == ("conv + pool", "conv2d_relu_max_pool2d_backward")
    plan, _, found = backward_of(stack, (8, 8, 2), set(), input_gradient=True)
    assert found[-1] == ("conv + pool", "conv2d_relu_max_pool2d_backward")
    assert plan.dx.shape == (2, 8, 8, 2)
    for fuse in (True, False):
        assert backward_of(stack, (8, 8, 2), set(), fuse)[2] == []


@pytest.mark.parametrize("backend", SETS)
@pytest.mark.parametrize("learning", ["kernel", "bias"])
def test_weights_that_are_partly_frozen(backend, learning):
    """The half that learns gets the gradient that it has when all learn; the other goes into a scrap buffer."""
    stack = [layers.Conv2D(3, 2, name="conv"), layers.Flatten(name="flat"), layers.Dense(2, name="dense")]
    keys = {f"{layer}/{learning}" for layer in ("conv", "dense")}
    rng = np.random.default_rng(2)
    x, dout = rng.standard_normal((2, 5, 5, 2), np.float32), rng.standard_normal((2, 2), np.float32)
    gradients = []
    with memory.guarded():
        for some in (keys, None):
            state = state_of(SETS[backend], stack, (5, 5, 2), some)
            plan = lower(chain_of(stack, (5, 5, 2)), 2, state, training=True)
            plan.x[...], plan.dout[...] = x, dout
            plan.program("prepare", "forward", "backward")()
            gradients.append({key: state.grads[key].copy() for key in keys})
            assert set(state.grads.shapes) >= keys
    for key in keys:
        np.testing.assert_array_equal(*(found[key] for found in gradients))
        assert gradients[0][key].any()


@pytest.mark.parametrize("backend", SETS)
def test_a_frozen_normalisation_goes_by_its_moving_statistics(backend):
    norm = layers.BatchNormalization(name="norm", trainable=False)
    stack = [layers.Dense(4, name="first"), norm, layers.Dense(2, name="last")]
    learning = {"first/kernel", "first/bias", "last/kernel", "last/bias"}
    rng = np.random.default_rng(4)
    state = state_of(SETS[backend], stack, (3,), learning)
    state.moving["norm/moving_mean"][...] = rng.standard_normal(4)
    state.moving["norm/moving_variance"][...] = 0.5 + rng.random(4)
    before = state.moving.flat.copy()
    plan = lower(chain_of(stack, (3,)), 5, state, training=True)
    plan.x[...] = rng.standard_normal((5, 3))
    plan.dout[...] = 1
    plan.program("prepare", "forward", "backward")()
    names = [step.kernel_name for phase in ("forward", "backward") for step in plan.steps[phase]]
    dense = ["dense_backward", "batch_norm_inference_backward", "dense_backward"]
    dense[:0] = ["dense_prepare", "dense_forward", "batch_norm_inference", "dense_prepare", "dense_forward"]
    assert names == dense
    np.testing.assert_array_equal(state.moving.flat, before)
    dnorm = np.ones((5, 2)) @ state.params["last/kernel"].T
    dfirst = dnorm / np.sqrt(state.moving["norm/moving_variance"] + 1e-3)
    np.testing.assert_allclose(state.grads["first/bias"], dfirst.sum(axis=0), rtol=1e-5)


# Guard zones


class Scale(layers.Layer):
    """A user's own layer."""

    def weight_specs(self, input_shape):
        return [layers.WeightSpec("factor", input_shape[-1:], tinyconv.initializers.Ones())]

    def forward(self, out, x, weights):
        out[...] = x * weights["factor"]

    def backward(self, dx, dweights, dout, x, out, weights):
        if dx.size:
            dx[...] = dout * weights["factor"]
        dweights["factor"][...] = (dout * x).reshape(-1, x.shape[-1]).sum(axis=0)


NETWORKS = {
    "digits": (
        (10, 9, 1),
        lambda: [
            layers.Conv2D(5, 3, activation="relu"),
            layers.MaxPooling2D(2),
            layers.Conv2D(17, 2, activation="relu"),
            layers.MaxPooling2D(2),
            layers.Flatten(),
            layers.Dropout(0.5),
            layers.Dense(3, activation="softmax"),
        ],
        "sparse_categorical_crossentropy",
    ),
    "general": (
        (9, 7, 3),
        lambda: [
            layers.Conv2D(5, (3, 2), strides=2, padding="same", use_bias=False),
            layers.BatchNormalization(),
            layers.Activation("tanh"),
            layers.Conv2D(6, 2, dilation_rate=2, activation="elu"),
            layers.MaxPooling2D(2, strides=1, padding="same"),
            layers.AveragePooling2D((2, 1)),
            Scale(),
            layers.Dropout(0.2),
            layers.GlobalAveragePooling2D(),
            layers.Dense(3, kernel_regularizer="l2"),
        ],
        "mse",
    ),
    "winograd": (
        (7, 6, 16),
        lambda: [
            layers.Conv2D(33, 3, padding="same", activation="relu"),
            layers.BatchNormalization(trainable=False),
            layers.Conv2D(16, 3, activation="leaky_relu"),
            layers.Flatten(),
            layers.Dense(3, activation="sigmoid"),
        ],
        "binary_crossentropy",
    ),
    "rows": (
        (5,),
        lambda: [
            layers.Dense(19, activation="relu", trainable=False),
            layers.BatchNormalization(),
            layers.Dense(7, activation="sigmoid"),
            layers.Dense(3),
            layers.Activation("softmax"),
        ],
        "categorical_crossentropy",
    ),
}


def trained(name, backend, fuse):
    """Weights and results after every kind of pass, with ragged last batches."""
    tinyconv.utils.set_random_seed(7)
    input_shape, make, loss = NETWORKS[name]
    model = tinyconv.Sequential([tinyconv.Input(input_shape), *make()])
    optimizer = tinyconv.optimizers.SGD(0.01, momentum=0.9) if fuse else "adam"
    model.compile(loss=loss, optimizer=optimizer, metrics=["accuracy"], backend=backend, fuse=fuse)
    rng = np.random.default_rng(8)
    x, labels = rng.standard_normal((11, *input_shape), np.float32), rng.integers(0, 3, 11)
    y = labels if loss.startswith("sparse") else np.eye(3, dtype=np.float32)[labels]
    model.fit(x, y, batch_size=4, epochs=2, verbose=0, validation_data=(x[:5], y[:5]))
    model.train_on_batch(x[:1], y[:1])
    results = [model.predict(x, batch_size=size, verbose=0) for size in (2, 5, 11)]
    return model.get_weights() + results


@pytest.mark.parametrize("fuse", few([True, False]))
@pytest.mark.parametrize("backend", SETS)
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_stay_in_their_memory(name, backend, fuse):
    """Nothing is written to the guard zones; and their NaNs, or that plans share no buffers there, change no bit."""
    with memory.guarded():
        guarded = trained(name, backend, fuse)
    for with_zones, without in zip(guarded, trained(name, backend, fuse), strict=True):
        np.testing.assert_array_equal(with_zones, without)


def one_step(function, *arrays):
    """A plan that consists of one call."""
    step = SimpleNamespace(call=(function, arrays))
    return tinyconv.plan.lowering.Plan(reference, 1, *(None,) * 6, {"forward": (step,)}, {}, {})


@pytest.mark.parametrize("offset", [-1, 6])
def test_a_kernel_that_writes_one_number_too_far_is_found(offset):
    def kernel(array):
        base = array.ctypes.data + offset * array.itemsize
        np.ctypeslib.as_array((np.ctypeslib.ctypes.c_float * 1).from_address(base))[0] = 0

    where = "before" if offset < 0 else "behind"
    with pytest.raises(RuntimeError, match=rf"wrote {where} an array of float32 and shape \(6,\)"), memory.guarded():
        one_step(kernel, Storage(reference).get("x", (2, 3), np.float32)).program("forward")()


def test_the_zone_lies_where_the_buffer_of_a_smaller_batch_ends():
    with memory.guarded():
        storage = Storage(cpu)
        storage.get("x", (8, 3), np.float32)
        small = storage.get("x", (2, 3), np.float32)
        assert storage.get("x", (2, 3), np.float32).ctypes.data == small.ctypes.data
        assert np.isnan(np.lib.stride_tricks.as_strided(small, (3, 3), small.strides)[2]).all()


def test_a_kernel_that_writes_between_two_weights_is_found():
    def kernel(flat):
        flat[17] = 1

    with memory.guarded():
        arena = Arena({"a": (17,), "b": (2,)}, reference)
        program = one_step(kernel, arena.flat).program("forward")
        with pytest.raises(RuntimeError, match="wrote behind 'a' in an arena"):
            program()
        arena.flat[17] = 0


def test_there_are_no_zones_elsewhere():
    assert not memory.guarding()
    program = one_step(lambda: None).program("forward")
    assert memory.watched(program) is program


@pytest.mark.long
def test_bounds_checks_change_no_bit():
    """The same training in a process whose kernels check every index."""
    program = """
import hashlib
import numpy as np
import tinyconv
from tinyconv import layers
tinyconv.utils.set_random_seed(3)
model = tinyconv.Sequential([tinyconv.Input((8, 8, 1)), layers.Conv2D(3, 3, activation="relu"), layers.MaxPooling2D(2),
    layers.Flatten(), layers.Dropout(0.25), layers.Dense(3, activation="softmax")])
model.compile(loss="sparse_categorical_crossentropy", optimizer="adam", backend="cpu")
rng = np.random.default_rng(0)
model.fit(rng.random((10, 8, 8, 1), np.float32), rng.integers(0, 3, 10), batch_size=4, epochs=2, verbose=0)
print(hashlib.sha256(b"".join(array.tobytes() for array in model.get_weights())).hexdigest())
"""

    def train(bounds):
        """In a process of its own; both at once, as they spend their time in the compiler, which has one thread."""
        settings = os.environ | {"NUMBA_BOUNDSCHECK": bounds}
        done = subprocess.run(
            [sys.executable, "-c", program], env=settings, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.split()[-1]

    with concurrent.futures.ThreadPoolExecutor() as pool:
        found = set(pool.map(train, "01"))
    assert len(found) == 1
    assert len(found.pop()) == len(hashlib.sha256().hexdigest())
