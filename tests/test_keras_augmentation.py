"""Augmentation against Keras: where a range without a width fixes what is drawn, the images are the same.

The draws themselves are tinyconv's own, functions of the seed, the step, the sample and the layer.
"""

import copy
import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinyconv
from tests.networks import run
from tests.peer import keras
from tests.strategies import examples, seeds
from tinyconv import layers
from tinyconv.kernels import reference
from tinyconv.kernels.reference.warp import KINDS
from tinyconv.saving import load_model

shapes = st.tuples(st.integers(1, 3), st.integers(1, 8), st.integers(1, 8), st.integers(1, 2))
edges = st.fixed_dictionaries(
    {
        "fill_mode": st.sampled_from(["constant", "nearest", "reflect"]),
        "interpolation": st.sampled_from(["bilinear", "nearest"]),
        "fill_value": st.sampled_from([0.0, 0.7]),
    }
)


@pytest.fixture(autouse=True)
def _reference(monkeypatch):
    monkeypatch.setenv("TINYCONV_BACKEND", "reference")


def fixed(rng, low=-0.9):
    """A range without a width. Its numbers are so odd that no place lies half-way between two pixels."""
    number = rng.uniform(low, 0.9)
    return number, number


LAYERS = {
    "RandomRotation": lambda rng: {"factor": fixed(rng)},
    "RandomTranslation": lambda rng: {"height_factor": fixed(rng), "width_factor": fixed(rng)},
    "RandomZoom": lambda rng: {"height_factor": fixed(rng), "width_factor": fixed(rng) if rng.random() < 0.5 else None},
}


def images(shape=(3, 6, 7, 2), seed=0):
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def agree(ours, theirs):
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * max(1, np.abs(theirs).max()))


@pytest.mark.parametrize("name", LAYERS)
@examples(25)
@given(shapes, edges, seeds)
def test_the_same_map_gives_the_same_image(name, shape, edge, seed):
    rng = np.random.default_rng(seed)
    x, arguments = images(shape, seed), LAYERS[name](rng) | edge
    agree(getattr(layers, name)(**arguments)(x), getattr(keras.layers, name)(**arguments)(x).numpy())


def with_either_sign(ours, one, other):
    """Each image is one of two, and the drawn sign says which; both occur."""
    signs = [np.abs(image - a).max() < np.abs(image - b).max() for image, a, b in zip(ours, one, other, strict=True)]
    agree(ours, np.where(np.reshape(signs, (-1, 1, 1, 1)), one, other))
    assert 0 < sum(signs) < len(signs)


@pytest.mark.parametrize("factors", [(0.2, 0.0), (0.4, 0.1)])
def test_shear_to_both_sides(factors):
    x, (a, b) = images((12, 6, 7, 2)), factors
    tinyconv.utils.set_random_seed(1)
    ours = layers.RandomShear((a, a), (b, b), fill_mode="constant")(x)
    maps = [np.tile(np.float32([1, sign * a, 0, sign * b, 1, 0, 0, 0]), (12, 1)) for sign in (1, -1)]
    with_either_sign(ours, *(keras.ops.image.affine_transform(x, each).numpy() for each in maps))


@pytest.mark.parametrize(("mode", "axes"), [("horizontal", (2,)), ("vertical", (1,)), (None, (1, 2))])
def test_flips(mode, axes):
    """Exactly; and both ways together or not at all, as Keras' do."""
    x = images((12, 6, 7, 2))
    tinyconv.utils.set_random_seed(1)
    flipped = layers.RandomFlip(*filter(None, [mode]))(x)
    with_either_sign(flipped, x, np.flip(x, axes))
    assert sorted(flipped[3].ravel()) == sorted(x[3].ravel())
    theirs = keras.layers.RandomFlip(*filter(None, [mode]), seed=1)(x).numpy()
    with_either_sign(theirs, x, np.flip(x, axes))


def composed(shape):
    """Layers, and the map that they are one after the other."""
    _, H, W, _ = shape
    angle, down, across = 0.3, 0.2, -0.15
    stack = [
        ("RandomRotation", {"factor": (angle / 2 / math.pi,) * 2}),
        ("RandomTranslation", {"height_factor": (down, down), "width_factor": (across, across)}),
        ("RandomZoom", {"height_factor": (0.1, 0.1), "width_factor": (-0.3, -0.3)}),
    ]
    middle = np.array([[1, 0, (W - 1) / 2], [0, 1, (H - 1) / 2], [0, 0, 1]])
    cos, sin = math.cos(angle), math.sin(angle)
    turn = middle @ np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]]) @ np.linalg.inv(middle)
    shift = np.array([[1, 0, -across * W], [0, 1, -down * H], [0, 0, 1]])
    return stack, turn @ shift @ middle @ np.diag([0.7, 1.1, 1]) @ np.linalg.inv(middle)


def test_neighbours_are_one_map():
    """One pass through the composed map, which is Keras' result for it; without fusion, one after the other."""
    x = images()
    stack, whole = composed(x.shape)
    stack = [(name, {**arguments, "fill_mode": "nearest"}) for name, arguments in stack]
    ours, *_ = run(stack, [], x, x, "reference")
    maps = np.tile(whole.ravel()[:8].astype(np.float32), (len(x), 1))
    agree(ours, keras.ops.image.affine_transform(x, maps, fill_mode="nearest").numpy())
    theirs = x
    for name, arguments in stack:
        theirs = getattr(keras.layers, name)(**arguments)(theirs).numpy()
    agree(run(stack, [], x, x, "reference", fuse=False)[0], theirs)


@pytest.mark.parametrize("interpolation", ["bilinear", "nearest"])
def test_an_image_that_is_repeated(interpolation):
    """Keras' op on TensorFlow jumps from the last pixel to the first; its map_coordinates does not, and repeats the
    image as often as need be."""
    x, (_, whole) = images(), composed((3, 6, 7, 2))
    whole[0, 2] += 17.3
    ours, maps = np.empty_like(x), np.tile(whole[:2].ravel().astype(np.float32), (3, 1))
    reference.warp_forward(ours, x, maps, None, "wrap", 0.0, interpolation)
    places = np.einsum("ij,jhw->ihw", whole[:2], np.stack([*np.mgrid[:6, :7][::-1], np.ones((6, 7))]))[::-1]
    for n, c in itertools.product(range(3), range(2)):
        order = 1 if interpolation == "bilinear" else 0
        theirs = keras.ops.image.map_coordinates(x[n, :, :, c], places.astype(np.float32), order, fill_mode="wrap")
        agree(ours[n, :, :, c], theirs.numpy())


# What is drawn


def draw(kind="shift", ranges=(-1.0, 1.0, 2.0, 3.0), samples=4000, step=0, first=0, seed=1, layer=0):
    warps, moves = np.empty((samples, 6)), np.array([[KINDS.index(kind), layer]])
    reference.draw_warps(warps, np.array([step, 0, first]), moves, np.array([ranges]), (5, 5), seed)
    return warps


def test_numbers_are_uniform_in_their_ranges():
    for place, low in ((2, -1), (5, 2)):
        drawn = (-draw()[:, place] - low) / (1 if low == 2 else 2)
        assert 0 <= drawn.min() < 0.01
        assert 0.99 < drawn.max() < 1
        assert abs(drawn.mean() - 0.5) < 5 * math.sqrt(1 / 12 / 4000)
        assert abs(drawn.var() - 1 / 12) < 0.005


def test_draws_belong_to_the_sample():
    np.testing.assert_array_equal(draw(samples=24, first=40), draw()[40:64])


@pytest.mark.parametrize("other", [{"seed": 2}, {"layer": 1}, {"step": 1}, {"first": 5000}, {"seed": 1 + 2**32}])
def test_draws_are_independent(other):
    correlation = np.corrcoef(draw()[:, 2], draw(**other)[:, 2])[0, 1]
    assert abs(correlation) < 5 / math.sqrt(4000)


# In models


def augmented(library, *more, name="augmented"):
    stack = [
        library.layers.RandomFlip("horizontal", seed=3, name="flip"),
        library.layers.RandomTranslation(0.1, (-0.1, 0.2), fill_mode="constant", fill_value=0.5),
        library.layers.RandomRotation(0.05, interpolation="nearest"),
        library.layers.RandomZoom((-0.2, 0.1), fill_mode="nearest"),
        library.layers.RandomShear((0.1, 0.2), (0.0, 0.1), fill_mode="wrap"),
    ]
    return library.Sequential([library.Input((6, 7, 2)), *stack, *more], name=name)


def test_nothing_happens_at_inference():
    model = augmented(tinyconv, layers.Flatten(), layers.Dense(2))
    x = images()
    np.testing.assert_array_equal(augmented(tinyconv).predict(x), x)
    np.testing.assert_array_equal(layers.RandomFlip()(x, training=False), x)
    plain = tinyconv.Sequential([tinyconv.Input((6, 7, 2)), *model.layers[-2:]])
    np.testing.assert_array_equal(model.predict(x), plain.predict(x))
    model.compile(loss="mse", backend="reference")
    model.evaluate(x, np.zeros((3, 2)), verbose=0)
    (plan,) = model._trainer.plans.values()
    assert plan.steps["forward"][0].kernel_name == "dense_forward"


def test_a_model_that_is_called_augments_unless_told_not_to():
    """As Keras' does; and differently each time. (Dropout needs to be told to.)"""
    x = images()
    for library in (tinyconv, keras):
        model = augmented(library, library.layers.Dropout(0.5))
        one, other = np.asarray(model(x)), np.asarray(model(x))
        assert (one != other).mean() > 0.5
        assert (one == 0).mean() < 0.1
        np.testing.assert_array_equal(model(x, training=False), x)
        assert (np.asarray(model(x, training=True)) == 0).mean() > 0.25
    np.testing.assert_array_equal(augmented(tinyconv).predict_on_batch(x), x)


def test_files_in_both_directions(tmp_path):
    theirs, x = augmented(keras, keras.layers.Flatten(), keras.layers.Dense(2)), images()
    theirs.save(tmp_path / "theirs.keras")
    ours = load_model(tmp_path / "theirs.keras")
    ours.save(tmp_path / "ours.keras")
    again = keras.saving.load_model(tmp_path / "ours.keras")
    agree(ours.predict(x), theirs.predict(x, verbose=0))
    agree(again.predict(x, verbose=0), theirs.predict(x, verbose=0))
    for one, two, three in zip(ours.layers[:5], theirs.layers, again.layers, strict=False):
        known, expected, back = (json.loads(json.dumps(layer.get_config())) for layer in (one, two, three))
        assert back == expected
        assert known == {name: expected[name] for name in known}


def test_a_symmetric_shear_can_be_read_by_keras():
    """Keras writes (-0.2, 0.2), which it refuses to read."""
    config = layers.RandomShear(0.2).get_config()
    assert keras.layers.RandomShear.from_config(config).x_factor == layers.RandomShear(0.2).x_factor == (-0.2, 0.2)
    theirs = keras.layers.RandomShear(0.2, 0.1).get_config()
    del theirs["dtype"]
    assert layers.RandomShear.from_config(theirs).y_factor == (-0.1, 0.1)


def trained(seed, own=None, batch_size=4, copied=False):
    """The weights after an epoch with augmentation before and behind a layer that learns."""
    tinyconv.utils.set_random_seed(seed)
    stack = [layers.RandomRotation(0.2, seed=own), layers.Conv2D(2, 3), layers.RandomFlip(seed=own), layers.Flatten()]
    model = tinyconv.Sequential([tinyconv.Input((6, 7, 2)), *stack, layers.Dense(1)])
    model.compile(loss="mse", optimizer="sgd", backend="reference")
    model = copy.deepcopy(model) if copied else model
    model.fit(images((8, 6, 7, 2)), np.ones(8), batch_size=batch_size, epochs=2, verbose=0)
    return np.concatenate([weight.ravel() for weight in model.get_weights()])


def test_seeds():
    np.testing.assert_array_equal(trained(1), trained(1))
    np.testing.assert_array_equal(trained(1, own=5), trained(1, own=5))
    np.testing.assert_array_equal(trained(1), trained(1, copied=True))
    others = [trained(1), trained(2), trained(1, own=5), trained(1, own=6)]
    assert len({weights.tobytes() for weights in others}) == len(others)


def test_each_call_of_a_shared_layer_draws_for_itself():
    turn = layers.RandomRotation((0.1, 0.2))
    left, right = tinyconv.Input((6, 7, 2)), tinyconv.Input((6, 7, 2))
    model = tinyconv.Model([left, right], [turn(left), turn(right)])
    one, other = model([images(), images()], training=True)
    assert np.abs(one - other).max() > 0.01
