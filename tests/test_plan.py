"""The plan: fused and unfused agree, buffers are allocated once, and it can be read, profiled and traced."""

import contextlib
import gc
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

import tinyconv
from benchmarks.networks import SMALL
from tests.strategies import few
from tinyconv import kernels, layers
from tinyconv.kernels import memory
from tinyconv.plan import ops
from tinyconv.plan.arena import Arena
from tinyconv.plan.builder import Turns
from tinyconv.plan.fusion import fuse
from tinyconv.plan.graph import Graph
from tinyconv.plan.lowering import lower
from tinyconv.plan.state import State


def mnist_network(**compile_arguments):
    tinyconv.utils.set_random_seed(5)
    model = tinyconv.Sequential(
        [
            tinyconv.Input((28, 28, 1)),
            layers.Conv2D(8, 3, activation="relu"),
            layers.MaxPooling2D(2),
            layers.Conv2D(16, 3, activation="relu"),
            layers.MaxPooling2D(2),
            layers.Flatten(),
            layers.Dropout(0.5),
            layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile(loss="sparse_categorical_crossentropy", optimizer="adam", metrics=["accuracy"], **compile_arguments)
    return model


def norm_network(**compile_arguments):
    tinyconv.utils.set_random_seed(6)
    model = tinyconv.Sequential(
        [
            tinyconv.Input((9, 9, 3)),
            layers.Conv2D(5, 3, padding="same", use_bias=False),
            layers.BatchNormalization(),
            layers.Activation("relu"),
            layers.AveragePooling2D(2),
            layers.Conv2D(7, 3, activation="elu"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(6, activation="relu", kernel_regularizer="l2"),
            layers.BatchNormalization(),
            layers.Dense(1, activation="sigmoid"),
        ]
    )
    model.compile(loss="binary_crossentropy", optimizer="sgd", metrics=["accuracy"], **compile_arguments)
    return model


def batch(model, size=6, seed=0):
    rng = np.random.default_rng(seed)
    classes = max(model.output_shape[-1], 2)
    x = rng.standard_normal((size, *model.input_shape[1:]), np.float32)
    y = rng.integers(0, classes, size)
    return x, y if model.output_shape[-1] > 1 else y[:, None]


@pytest.mark.parametrize("network", [mnist_network, norm_network])
@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_fused_and_unfused_agree(network, backend):
    fused, plain = network(backend=backend), network(backend=backend, fuse=False)
    x, y = batch(fused)
    for _ in range(3):
        assert fused.train_on_batch(x, y) == pytest.approx(plain.train_on_batch(x, y), rel=1e-4, abs=1e-5)
    for ours, theirs in zip(fused.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-3, atol=2e-5)
    plain.set_weights(fused.get_weights())
    np.testing.assert_allclose(fused.predict(x), plain.predict(x), rtol=1e-4, atol=1e-6)
    assert len(fused.plan.all_steps()) < len(plain.plan.all_steps())


@pytest.mark.parametrize("network", [mnist_network, norm_network])
def test_the_cpu_computes_what_the_reference_does(network):
    reference, cpu = network(backend="reference"), network(backend="cpu")
    x, y = batch(reference)
    for _ in range(2):
        assert reference.train_on_batch(x, y) == pytest.approx(cpu.train_on_batch(x, y), rel=1e-4, abs=1e-5)
    np.testing.assert_allclose(reference.predict(x), cpu.predict(x), rtol=1e-3, atol=1e-5)


def test_what_is_fused():
    model = mnist_network(backend="reference")
    assert [step.kernel_name for step in model.plan.steps["forward"]] == [
        "conv2d_relu_max_pool2d_forward",
        "conv2d_relu_max_pool2d_forward",
        "dropout_pooled_forward",
        "dense_prepare",
        "dense_forward",
        "softmax_cross_entropy_forward",
        "accumulate",
        "count_correct",
        "accumulate",
    ]
    assert [step.kernel_name for step in model.plan.steps["backward"]] == [
        "softmax_cross_entropy_backward",
        "dense_backward",
        "conv2d_relu_max_pool2d_backward",
        "conv2d_relu_max_pool2d_backward",
    ]


def fused(sequence, training, **options):
    """What the rules make of a chain of ops."""
    graph = Graph()
    graph.outputs = [graph.add_chain(sequence, graph.add_input("input", sequence[0].x_shape))]
    fuse(graph, training, **options)
    return [node.op for _, node in graph][1:]


def test_a_normalisation_is_folded_at_inference_only():
    conv = ops.Conv2D("conv", (8, 8, 3), (8, 8, 4), (3, 3), (1, 1), (1, 1), (1, 1), True)
    norm = ops.BatchNorm("norm", (8, 8, 4), (8, 8, 4), 0.99, 1e-3, True, True)
    relu = ops.Activation("relu", (8, 8, 4), (8, 8, 4), "relu")
    (folded,) = fused([conv, norm, relu], training=False)
    assert folded.norm is norm
    assert folded.relu
    assert fused([conv, norm, relu], training=True) == [conv, replace(norm, relu=True)]


def test_pooling_takes_a_rectified_normalisation_by_the_batch():
    shape, small = (8, 8, 4), (4, 4, 4)
    norm = ops.BatchNorm("norm", shape, shape, 0.99, 1e-3, True, True, relu=True)
    pool = ops.MaxPool2D("pool", shape, small, (3, 3), (2, 2), (0, 0))
    assert fused([norm, pool], training=True) == [ops.BatchNormReluMaxPool2D("pool", shape, small, norm, pool)]
    apart = [
        [replace(norm, relu=False), pool],
        [replace(norm, frozen=True), pool],
        [norm, replace(pool, pool_size=(43, 3))],  # more places than an int8 can name
        [norm, ops.MaxPool2D("pool", shape, (4,), (8, 8), (8, 8), (0, 0))],
    ]
    for chain in apart:
        assert fused(chain, training=True) == chain
    assert fused([norm, pool], training=False) == [norm, pool]
    assert fused([norm, pool], training=True, sharded=True) == [norm, pool]


def residual_network():
    """Windows that overlap or leave a part of the image out, a first layer below which nothing learns, and residual
    blocks: two of the kind that is fused, and four that are not."""
    image = tinyconv.Input((9, 9, 3))

    def normalised(x, filters=5):
        return layers.BatchNormalization()(layers.Conv2D(filters, 1)(x))

    x = layers.MaxPooling2D(2, strides=1)(layers.ReLU()(layers.BatchNormalization()(image)))
    x = layers.MaxPooling2D(3, strides=2, padding="same")(layers.ReLU()(normalised(x)))
    x = layers.ReLU()(layers.Add()([normalised(x), x]))
    x = layers.ReLU()(layers.Add()([layers.Conv2D(5, 1)(x), normalised(x)]))
    one = layers.GlobalAveragePooling2D(keepdims=True)(x)
    x = layers.ReLU()(layers.Add()([normalised(x), one]))  # repeated
    x = layers.ReLU()(layers.Add()([normalised(x), x, x]))
    x = layers.ReLU()(layers.Average()([normalised(x), x]))
    normal = normalised(x)
    x = layers.Multiply()([layers.ReLU()(layers.Add()([normal, x])), normal])
    return tinyconv.Model(image, layers.Dense(2)(layers.Flatten()(x)))


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_training_with_normalisations_fused_is_training_without(backend):
    model = residual_network()
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((12, 9, 9, 3), np.float32), rng.standard_normal((12, 2), np.float32)
    models = {fuse: tinyconv.models.clone_model(model) for fuse in (True, False)}
    for fused_too, own in models.items():
        own.set_weights(model.get_weights())
        own.compile("sgd", "mse", backend=backend, fuse=fused_too)
        own.fit(x, y, batch_size=6, epochs=2, shuffle=False, verbose=0)
    for one, other in zip(models[True].get_weights(), models[False].get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
    kernels = [[step.kernel_name for step in own.plan.steps["forward"]] for own in models.values()]
    for name in ("batch_norm_relu_max_pool2d_forward", "batch_norm_add_relu_forward"):
        assert [names.count(name) for names in kernels] == [2, 0]


def shared_layers(which):
    """Networks in which one layer ends several chains that are fused, or begins them."""
    image, relu, pool = tinyconv.Input((8, 8, 3)), layers.ReLU(), layers.MaxPooling2D(3, strides=1, padding="same")
    norm = layers.BatchNormalization(momentum=0.5)

    def conv(x, **options):
        return layers.Conv2D(4, 3, padding="same", **options)(x)

    x = conv(image)
    if which == "relu":
        for _ in range(2):
            x = relu(layers.Add()([layers.BatchNormalization()(conv(x)), x]))
    elif which == "pool":
        for _ in range(2):
            x = pool(layers.ReLU()(layers.BatchNormalization()(conv(x))))
    elif which == "halves":
        halves = layers.MaxPooling2D(2)
        x = halves(conv(halves(conv(x, activation="relu")), activation="relu"))
    elif which == "norm, added":
        x = layers.ReLU()(layers.Add()([norm(x), norm(conv(image))]))
    elif which == "norm, rectified":
        one, other = norm(x), norm(conv(image))
        x = layers.Concatenate()([layers.ReLU()(other), pool(layers.ReLU()(one))])
    return tinyconv.Model(image, layers.Dense(2)(layers.Flatten()(x)))


@pytest.mark.parametrize("which", ["relu", "pool", "halves", "norm, added", "norm, rectified"])
@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_layers_that_are_called_more_than_once_train_the_same_fused(which, backend):
    model = shared_layers(which)
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((6, 8, 8, 3), np.float32), rng.standard_normal((6, 2), np.float32)
    before, found = model.get_weights(), {}
    for fused_too in (True, False):
        model.set_weights(before)
        model.compile(tinyconv.optimizers.SGD(0.01), "mse", backend=backend, fuse=fused_too)
        for _ in range(3):
            model.train_on_batch(x, y)
        found[fused_too] = model.get_weights()
    for one, other in zip(found[True], found[False], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("first", [layers.Dropout(0.5), layers.RandomFlip("horizontal")])
def test_an_input_may_be_an_output(first):
    """As it is where a first layer does something in training only."""
    image = tinyconv.Input((6, 6, 1))
    model = tinyconv.Model(image, [first(image), layers.Flatten()(image), image])
    x = np.random.default_rng(0).standard_normal((4, 6, 6, 1), np.float32)
    for found in model(x, training=False):
        np.testing.assert_array_equal(found.reshape(x.shape), x)


def test_a_residual_is_added_in_a_register_in_training_on_a_whole_batch():
    for name in ("trainable", "inference", "frozen", "sharded"):
        model = residual_network()
        graph, training = model._graph(), name != "inference"
        if name == "frozen":
            graph = graph.at_inference()
        fuse(graph, training, sharded=name == "sharded")
        found = sum(isinstance(node.op, ops.BatchNormAddRelu) for _, node in graph)
        assert found == (2 if name == "trainable" else 0), name


def test_a_normalisation_takes_the_relu_behind_it_unless_another_layer_reads_it():
    """In training, frozen or not, and at inference where no product stands before it to be folded into."""
    tinyconv.utils.set_random_seed(7)
    x = tinyconv.Input((4, 4, 3))
    joined = layers.Add()([layers.Conv2D(5, 3, padding="same")(x), layers.Conv2D(5, 1)(x)])
    normal = layers.BatchNormalization(name="fused")(joined)
    frozen = layers.BatchNormalization(name="frozen", trainable=False)(layers.ReLU()(normal))
    read_twice = layers.BatchNormalization(name="plain")(layers.ReLU()(frozen))
    out = layers.Add()([layers.ReLU()(read_twice), read_twice])
    model = tinyconv.Model(x, layers.Dense(2)(layers.Flatten()(out)))
    models = {fuse: tinyconv.models.clone_model(model) for fuse in (True, False)}
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((6, 4, 4, 3), np.float32), rng.standard_normal((6, 2), np.float32)
    for fused_too, own in models.items():
        own.set_weights(model.get_weights())
        own.compile("sgd", "mse", backend="reference", fuse=fused_too)
        own.fit(x, y, batch_size=3, epochs=2, shuffle=False, verbose=0)
    for one, other in zip(models[True].get_weights(), models[False].get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(models[True].predict(x), models[False].predict(x), rtol=1e-4, atol=1e-5)
    steps = {step.name: step.kernel_name for step in models[True].plan.steps["forward"]}
    assert steps["fused"] == "batch_norm_relu_forward"
    assert steps["frozen"] == "batch_norm_relu_inference"
    assert steps["plain"] == "batch_norm_forward"
    assert [name for name in steps if name.startswith("re_lu")] == ["re_lu_2"]
    results = [{name for name in own.plan.buffers if name.endswith(".out")} for own in models.values()]
    assert len(results[1] - results[0]) == 2
    trace = models[True].trace(x, y)
    assert (trace["fused"].output < 0).any()
    np.testing.assert_array_equal(trace["re_lu"].output, np.maximum(trace["fused"].output, 0))


@pytest.mark.parametrize(
    "change",
    [
        {"strides": (2, 2)},
        {"dilation": (2, 2)},
        {"relu": False},
    ],
)
def test_a_pooling_is_fused_only_where_the_kernel_can(change):
    conv = ops.Conv2D("conv", (9, 9, 3), (8, 8, 4), (2, 2), (1, 1), (0, 0), (1, 1), True, relu=True)
    pool = ops.MaxPool2D("pool", (8, 8, 4), (4, 4, 4), (2, 2), (2, 2), (0, 0))
    assert len(fused([conv, pool], True)) == 1
    assert len(fused([replace(conv, **change), pool], True)) == 2


def test_warps_are_one_where_they_see_the_same_beyond_the_edge():
    """A mirror sees nothing there, and joins any others."""
    shape, nothing = (8, 8, 3), (0.0, 0.0, 0.0, 0.0)

    def warp(name, *beyond):
        return ops.Warp(name, shape, shape, len(name), "flip", nothing, ops.Beyond(*beyond) if beyond else None)

    white, mirrored = ("constant", 1.0, "bilinear"), ("reflect", 0.0, "bilinear")
    (one,) = fused([warp("a"), warp("b", *white), warp("c"), warp("d", *white)], True)
    assert one.layers == "a + b + c + d"
    assert [each.index for each in (*one.before, one)] == [1, 1, 1, 1]
    assert one.beyond == white
    two = fused([warp("a", *white), warp("b"), warp("c", *mirrored), warp("d", *white)], True)
    assert [each.layers for each in two] == ["a + b", "c", "d"]
    relu = ops.Activation("relu", shape, shape, "relu")
    assert len(fused([warp("a"), relu, warp("b")], True)) == 3


def test_a_step_allocates_nothing_and_keeps_its_buffers():
    model = mnist_network(backend="cpu")
    x, y = batch(model, 32)
    model.fit(x, y, batch_size=16, epochs=1, verbose=0)
    trainer, plan = model._trainer, model.plan
    run = trainer.program(plan, "prepare", "forward", "backward", "update")
    run()
    before = {name: array.ctypes.data for name, array in plan.buffers.items()}
    gc.collect()
    tracemalloc.start()
    run()
    first = tracemalloc.take_snapshot()
    for _ in range(20):
        run()
    last = tracemalloc.take_snapshot()
    tracemalloc.stop()
    grown = sum(entry.size_diff for entry in last.compare_to(first, "filename") if "tracemalloc" not in str(entry))
    assert grown < 2048  # bytes over 20 steps: of Python's own bookkeeping; one activation alone has 100 KB
    assert before == {name: array.ctypes.data for name, array in plan.buffers.items()}
    assert model.plan is plan


def test_a_ragged_last_batch_shares_the_buffers():
    model = mnist_network(backend="cpu")
    x, y = batch(model, 40)
    model.fit(x, y, batch_size=16, epochs=1, verbose=0)
    plans = {size: plan for (size, training, *_), plan in model._trainer.plans.items() if training}
    assert sorted(plans) == [8, 16]
    assert plans[8].x.ctypes.data == plans[16].x.ctypes.data
    assert plans[8].x.shape[0] == 8


@pytest.fixture
def wide(monkeypatch):
    """A terminal in which no table has to leave anything out."""
    monkeypatch.setenv("COLUMNS", "250")


def test_the_plan_prints_its_steps_shapes_and_what_was_fused(wide):
    text = str(mnist_network(backend="reference").plan)
    assert "Plan for batches of 32 on the 'reference' kernels" in text
    assert "conv2d + relu + max_pool2d" in text
    assert "dropout_pooled_forward" in text
    assert "out 32x13x13x8" in text
    assert "adam_update" in text
    assert "MFLOP" in text


@pytest.mark.parametrize("columns", few([30, 80, 40, 120, 190], 2))
def test_tables_fit_the_terminal(columns, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", str(columns))
    model = mnist_network(backend="reference")
    model.summary()
    model.profile(*batch(model), repeats=1)
    text = f"{model.plan}\n{capsys.readouterr().out}"
    assert max(map(len, text.splitlines())) < columns
    assert "dense" in text
    assert len(repr(model.plan)) < 200


def test_a_notebook_sees_tables():
    model = mnist_network(backend="reference")
    for thing in (model, model.plan):
        text = thing._repr_html_()
        assert text.count("<tr>") > 5
        assert "<script" not in text
    model.name = "<script>alert(1)</script>".replace("/", "")
    assert "<script>" not in model._repr_html_()


def test_profile_prints_every_step_and_leaves_the_weights(capsys, wide):
    model = mnist_network(backend="reference")
    x, y = batch(model)
    before = model.get_weights()
    model.profile(x, y, repeats=2)
    text = capsys.readouterr().out
    assert text.count("conv2d_relu_max_pool2d_backward") == 2
    assert "share" in text
    assert all((a == b).all() for a, b in zip(before, model.get_weights(), strict=True))


def two_branches():
    """Values of several sizes that are read more than once, late, and as views; two outputs."""
    image = tinyconv.Input((6, 6, 2))
    first = layers.Conv2D(3, 3, padding="same", activation="tanh")(image)
    second = layers.BatchNormalization()(layers.Conv2D(3, 1)(first))
    normal = layers.BatchNormalization()(layers.Concatenate()([second, image, first]))
    third = layers.MaxPooling2D(2)(layers.ReLU()(normal))
    third = layers.ReLU()(layers.Add()([third, layers.Conv2D(8, 1)(third), third]))
    flat = layers.Reshape((72,))(third)
    hidden = layers.Dense(72)(layers.Dropout(0.3)(flat))
    joined = layers.Multiply()([layers.Subtract()([hidden, flat]), layers.Flatten()(third)])
    return tinyconv.Model(image, [layers.Dense(2, name="a")(joined), layers.Dense(1, name="b")(flat)])


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_memory_that_values_have_in_turn_changes_no_bit(backend):
    """Inside of ``guarded`` every value has memory of its own."""
    rng = np.random.default_rng(0)
    x, ys = rng.standard_normal((5, 6, 6, 2), np.float32), [rng.random((5, n), np.float32) for n in (2, 1)]
    found = []
    for guards in (contextlib.nullcontext, memory.guarded):
        tinyconv.utils.set_random_seed(1)
        with guards():
            model = two_branches()
            model.compile("adam", "mse", backend=backend)
            model.fit(x, ys, batch_size=3, epochs=3, verbose=0)
            only_b = tinyconv.Model(model.inputs, model.outputs[1])
            only_b.compile("adam", "mse", backend=backend)
            only_b.fit(x, ys[1], batch_size=3, verbose=0)
            results = [*model.predict(x, verbose=0), model.evaluate(x, ys, verbose=0), *model.get_weights()]
            plans = [model._trainer.plan(3, *which) for which in ((True, True), (False, False), (None, True))]
            found.append((results, [sum(array.nbytes for array in plan.buffers.values()) for plan in plans]))
    (shared, sizes), (own, more) = found
    for one, other in zip(shared, own, strict=True):
        np.testing.assert_array_equal(one, other)
    assert all(small < large for small, large in zip(sizes, more, strict=True))


def test_a_piece_of_memory_is_taken_when_nobody_has_it():
    pieces = []
    turns = Turns(pieces, np.zeros)
    wanted = [(8, 0, 1), (8, 1, 3), (4, 2, 4), (2, 2, 2), (9, 3, 3), (1, 4, 5), (8, 5, 5)]  # size, from, until
    taken = [turns.take("backward", *each) for each in wanted]
    assert taken == [0, 1, 0, 2, 3, 2, 0]
    assert [turns.take("forward", *each) for each in [(8, 0, 3), (8, 3, 4), (9, 4, 5)]] == [0, 1, 3]  # the other phase
    assert [piece.size for piece in pieces] == [8, 8, 2, 9]
    other = Turns(pieces, np.zeros)  # another plan's
    assert [other.take("forward", *each) for each in [(2, 0, 9), (9, 0, 9), (3, 0, 9), (1, 1, 9)]] == [2, 3, 0, 1]
    for size in range(10, 100):  # plans for larger and larger batches
        larger = Turns(pieces, np.zeros)
        assert {larger.take("forward", size, now, 2) for now in range(3)} == {0, 1, 3}
    assert sum(piece.memory.size for piece in pieces) == 3 * 99 + 2


def test_a_piece_of_memory_grows_before_another_is_made():
    pieces = []
    turns = Turns(pieces, lambda size: np.zeros(2 * size))
    wanted = [(4, 0, 0), (9, 1, 1), (6, 2, 3), (7, 3, 3), (8, 4, 4), (7, 5, 5)]
    assert [turns.take("backward", *each) for each in wanted] == [0, 1, 1, 0, 1, 0]
    assert [piece.size for piece in pieces] == [7, 9]


def test_inference_has_the_memory_of_training():
    """Not at the same time; and what predict returns is nobody else's."""
    model = mnist_network(backend="cpu")
    x, y = batch(model, size=8)
    model.fit(x, y, batch_size=8, verbose=0)
    made = {id(piece.memory) for piece in model._trainer.storages[True].pieces}
    first = model.predict(x, batch_size=8)
    again = first.copy()
    assert {id(piece.memory) for piece in model._trainer.storages[False].pieces} >= made
    model.fit(x, y, batch_size=8, verbose=0)
    np.testing.assert_array_equal(first, again)


def reread_but_not_declared(plan):
    """Ops of a plan for training, each of whose values has memory of its own, that read again in the backward pass
    what they do not say: then others would have written to it meanwhile."""
    found = []
    for emitted in plan.emitted.values():
        arrays = [array for step in emitted.backward for array in step.arrays.values()]
        x, *others = [value.data for value in emitted.inputs] or [np.empty(0)]
        values = {"x": [x], "others": others, "out": [emitted.out.data]}
        for name, own in values.items():
            read = any(np.shares_memory(array, each) for array in arrays for each in own)
            if read and name not in emitted.op.rereads and not emitted.op.is_view:
                found.append((emitted.op, name))
    return found


def networks_of_all_ops():
    image = [
        layers.Conv2D(4, 3),
        layers.DepthwiseConv2D(3),
        layers.SeparableConv2D(4, 3),
        layers.Conv2DTranspose(4, 3, strides=2),
        layers.AveragePooling2D(2),
        layers.MaxPooling2D(3, strides=1),
        layers.ZeroPadding2D(1),
        layers.UpSampling2D(2),
        layers.LayerNormalization(),
        layers.Dropout(0.3),
        layers.Rescaling(0.5),
        layers.BatchNormalization(),
        layers.BatchNormalization(),
        layers.ReLU(),
        layers.MaxPooling2D(3, strides=1, padding="same"),
        *[layers.Activation(kind) for kind in ACTIVATIONS],
        *[layers.Conv2D(4, 3, activation=kind, padding="same") for kind in ("relu", "tanh", "elu")],
    ]
    tail = [layers.GlobalAveragePooling2D(), layers.Dense(4, activation="relu"), layers.Softmax()]
    return [
        tinyconv.Sequential([tinyconv.Input((16, 16, 3)), *image, *tail]),
        two_branches(),
        *[network.make(tinyconv) for network in SMALL],
    ]


ACTIVATIONS = (
    "relu",
    "leaky_relu",
    "elu",
    "sigmoid",
    "tanh",
    "softplus",
    "softsign",
    "silu",
    "gelu",
    "exponential",
    "mish",
)


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_ops_declare_what_their_backward_pass_reads_again(backend):
    kernel_set = kernels.load(backend)
    for model in networks_of_all_ops():
        state = State(kernel_set, *(Arena(arena.shapes, kernel_set) for arena in model._arenas))
        for rules in (True, False):
            plan = lower(model._graph(), 2, state, training=True, fuse=rules, input_gradient=True, apart=True)
            assert reread_but_not_declared(plan) == []


class Scale(layers.Layer):
    """A user's own layer: every feature times a weight, squared."""

    def weight_specs(self, input_shape):
        return [layers.WeightSpec("factor", input_shape[-1:], tinyconv.initializers.Ones())]

    def forward(self, out, x, weights):
        out[...] = (x * weights["factor"]) ** 2

    def backward(self, dx, dweights, dout, x, out, weights):
        slope = 2 * x * weights["factor"] * dout
        if dx.size:
            dx[...] = slope * weights["factor"]
        dweights["factor"][...] = (slope * x).sum(axis=tuple(range(x.ndim - 1)))


class Wrong(Scale):
    def backward(self, dx, dweights, dout, x, out, weights):
        super().backward(dx, dweights, dout, x, out, weights)
        dweights["factor"][1] *= 1.01


def test_a_layer_of_ones_own_is_checked_by_one_call():
    assert tinyconv.check_gradients(Scale(), (4, 3)) < 1e-7
    with pytest.raises(ValueError, match=r"disagrees with central differences for 'wrong/factor' at \(1,\)"):
        tinyconv.check_gradients(Wrong(), (4, 3))


class FillsNothing(Scale):
    def forward(self, out, x, weights):
        pass


class Returns(Scale):
    def forward(self, out, x, weights):
        return (x * weights["factor"]) ** 2


class FillsHalf(Scale):
    def forward(self, out, x, weights):
        out[::2] = (x[::2] * weights["factor"]) ** 2


class WritesToItsInput(Scale):
    def forward(self, out, x, weights):
        x *= weights["factor"]
        out[...] = x**2


class ForgetsTheInput(Scale):
    def backward(self, dx, dweights, dout, x, out, weights):
        super().backward(np.empty_like(dx), dweights, dout, x, out, weights)


class ForgetsTheWeight(Scale):
    def backward(self, dx, dweights, dout, x, out, weights):
        super().backward(dx, {"factor": np.empty_like(dweights["factor"])}, dout, x, out, weights)


class ReturnsTheGradient(Scale):
    def backward(self, dx, dweights, dout, x, out, weights):
        super().backward(dx, dweights, dout, x, out, weights)
        return dx.copy()


class ReplacesTheGradient(Scale):
    def backward(self, dx, dweights, dout, x, out, weights):
        super().backward(dx, dweights, dout, x, out, weights)
        dweights["factor"] = dweights["factor"].copy()


FORWARD = {
    FillsNothing: r"FillsNothing\.forward did not fill out, or not all of it",
    Returns: r"Returns\.forward returned a ndarray.* Fix: out\[\.\.\.\] = result",
    FillsHalf: r"FillsHalf\.forward did not fill out, or not all of it",
    WritesToItsInput: r"WritesToItsInput\.forward wrote to one of its inputs",
}
BACKWARD = {
    ForgetsTheInput: r"ForgetsTheInput\.backward did not fill dx",
    ForgetsTheWeight: r"ForgetsTheWeight\.backward did not fill dweights\['factor'\]",
    ReturnsTheGradient: r"ReturnsTheGradient\.backward returned a ndarray.* Fix: dx\[\.\.\.\] = result",
    ReplacesTheGradient: r"ReplacesTheGradient\.backward put other arrays in place",
}


@pytest.mark.parametrize("layer", [*FORWARD, *BACKWARD])
def test_a_layer_that_does_not_fill_what_it_should_is_told(layer):
    """By the check, and in normal use."""
    message = (FORWARD | BACKWARD)[layer]
    with pytest.raises(ValueError, match=message):
        tinyconv.check_gradients(layer(), (4, 3))
    x = np.ones((2, 3), np.float32)
    model = tinyconv.Sequential([tinyconv.Input((3,)), layers.Dense(3), layer()])
    model.compile(loss="mse", backend="reference")
    with pytest.raises(ValueError, match=message):
        model.train_on_batch(x, x)
    if layer in FORWARD:
        with pytest.raises(ValueError, match=message):
            layer()(x)


class Centre(layers.Layer):
    """Moves a statistic of its own, which is the forward pass's to do."""

    def weight_specs(self, input_shape):
        zeros = tinyconv.initializers.Zeros()
        return [layers.WeightSpec("mean", input_shape[-1:], zeros, trainable=False)]

    def forward(self, out, x, weights):
        out[...] = x - weights["mean"]
        weights["mean"] += 0.5 * (x.mean(axis=0) - weights["mean"])

    def backward(self, dx, dweights, dout, x, out, weights):
        dx[...] = dout


def test_a_layer_of_ones_own_moves_its_statistics():
    assert tinyconv.check_gradients(Centre(), (3,)) < 1e-7
    layer = Centre()
    layer(np.full((2, 3), 4, np.float32))
    np.testing.assert_array_equal(layer.get_weights()[0], [2, 2, 2])


def test_layers_of_one_name_are_checked_as_two():
    assert tinyconv.check_gradients([layers.Dense(3), layers.Dense(2)], (4,)) < 1e-6
    assert tinyconv.check_gradients([Scale(), Scale()], (4,)) < 1e-6
    with pytest.raises(ValueError, match=r"'wrong_0/factor' at \(1,\)"):
        tinyconv.check_gradients([Wrong(), Wrong()], (4,))


@pytest.mark.parametrize("frozen", [True, False])
def test_gradients_at_inference_and_of_frozen_layers(frozen):
    norm = layers.BatchNormalization(
        moving_mean_initializer="ones", moving_variance_initializer="ones", trainable=not frozen
    )
    stack = [layers.Dense(3, trainable=not frozen), norm, layers.Dropout(0.5), layers.Dense(2)]
    assert tinyconv.check_gradients(stack, (4,), training=frozen) < 1e-6


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"layers": []}, "Expected a layer, or a list of layers"),
        ({"layers": [5]}, "Expected a layer, or a list of layers"),
        ({"layers": "dense"}, "Expected a layer, or a list of layers"),
        ({"layers": tinyconv.Sequential()}, "Expected a layer, or a list of layers"),
        ({"input_shape": 4}, "Invalid input_shape of check_gradients"),
        ({"input_shape": (4, 0)}, "Invalid input_shape of check_gradients"),
        ({"tolerance": float("nan")}, "Invalid tolerance of check_gradients"),
        ({"tolerance": None}, "Invalid tolerance of check_gradients"),
        ({"batch_size": 0}, "Invalid batch_size of check_gradients"),
        ({"seed": -1}, "Invalid seed of check_gradients"),
        ({"training": "yes"}, "Invalid training of check_gradients"),
    ],
)
def test_what_check_gradients_does_not_take(wrong, message):
    arguments = {"layers": layers.Dense(2), "input_shape": (4,)} | wrong
    with pytest.raises(ValueError, match=message):
        tinyconv.check_gradients(**arguments)


def test_several_layers_are_checked_at_once():
    stack = [layers.Conv2D(3, 2, activation="tanh"), layers.BatchNormalization(), layers.Dropout(0.3), layers.Flatten()]
    assert tinyconv.check_gradients([*stack, layers.Dense(2, activation="softmax")], (4, 4, 2)) < 1e-6


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_a_layer_of_ones_own_trains_in_a_plan(backend):
    tinyconv.utils.set_random_seed(1)
    model = tinyconv.Sequential([tinyconv.Input((4,)), Scale(), layers.Dense(2, activation="softmax")])
    model.compile(loss="sparse_categorical_crossentropy", optimizer=tinyconv.optimizers.Adam(0.05), backend=backend)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((200, 4), np.float32)
    y = ((x**2).sum(axis=1) > 4).astype(np.int64)
    losses = model.fit(x, y, epochs=20, verbose=0).history["loss"]
    assert losses[-1] < 0.6 * losses[0]
    assert (model.get_layer("scale").get_weights()[0] != 1).all()


def test_a_layer_without_forward_says_so():
    with pytest.raises(TypeError, match=r"override call\(inputs\)"):
        layers.Layer()(np.ones((1, 2), np.float32))
