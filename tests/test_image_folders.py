"""Images in folders, as objects of Pillow's, as arrays and in batches: as Keras has them."""

import io
import itertools

import numpy as np
import pytest

import tinyconv
from tinyconv import layers, utils
from tinyconv.utils.resizing import METHODS, resized

Image = pytest.importorskip("PIL.Image")
keras = pytest.importorskip("keras")
tf = pytest.importorskip("tensorflow")

RNG = np.random.default_rng(0)


def pixels(*shape):
    return RNG.integers(0, 256, shape).astype(np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two classes, of images of many sizes and modes, one of them deeper inside; and what is no image."""
    root = tmp_path_factory.mktemp("images")
    for name, count in (("b", 7), ("a", 6), (".hidden", 1)):
        (root / name / "deeper").mkdir(parents=True)
        for i in range(count):
            where = root / name / "deeper" if i == 2 else root / name
            shape = (5 + i, 9 - i) if i % 3 == 0 else (6, 5 + i, 3)
            Image.fromarray(pixels(*shape)).save(where / f"{i}.{'PNG' if i % 2 else 'png'}")
    (root / "a" / "notes.txt").write_text("no image")
    (root / "file.png").write_bytes((root / "a" / "0.png").read_bytes())
    return root


def both(folder, **settings):
    """What comes of it here and in Keras."""
    settings = {"image_size": (6, 5), "batch_size": 4, "shuffle": False, "verbose": False} | settings
    ours, theirs = (package.utils.image_dataset_from_directory(folder, **settings) for package in (tinyconv, keras))
    return list(zip(ours, theirs, strict=True)) if settings.get("subset") == "both" else [(ours, theirs)]


SETTINGS = {
    "as by default": {},
    "categorical": {"label_mode": "categorical", "color_mode": "rgba"},
    "binary": {"label_mode": "binary", "interpolation": "nearest"},
    "one class": {"class_names": ["b"], "image_size": 4, "interpolation": "area"},
    "in another order": {"class_names": ["b", "a"], "crop_to_aspect_ratio": True, "image_size": (3, 7)},
    "no labels": {"labels": None, "interpolation": "lanczos3"},
    "no label mode": {"label_mode": None},
    "labels of one's own": {"labels": [*range(8), *range(7)], "label_mode": "categorical"},
    "training": {"validation_split": 0.3, "subset": "training"},
    "both": {"validation_split": 0.3, "subset": "both"},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_batches_are_those_of_keras(folder, name):
    for ours, theirs in both(folder, **SETTINGS[name]):
        assert ours.class_names == theirs.class_names
        assert ours.file_paths == theirs.file_paths
        assert len(ours) == len(theirs)
        for mine, peer in zip(ours, theirs, strict=True):
            mine, peer = (x if isinstance(x, tuple) else (x,) for x in (mine, peer))
            for a, b in zip(mine, map(np.asarray, peer), strict=True):
                assert a.shape == b.shape
                np.testing.assert_allclose(a, b, atol=1e-3)
            assert mine[0].dtype == np.float32
            assert [a.dtype for a in mine[1:]] == [np.asarray(b).dtype for b in peer[1:]]


@pytest.mark.parametrize("subset", ["training", "validation", "both"])
def test_a_seed_splits_the_files_as_in_keras(folder, subset):
    for ours, theirs in both(folder, validation_split=0.4, subset=subset, seed=5, shuffle=True):
        assert ours.file_paths == theirs.file_paths
        labels = {path: int(label) for path, label in zip(ours.file_paths, ours.labels, strict=True)}
        assert all(ours.class_names[label] in path for path, label in labels.items())


def test_each_epoch_has_an_order_of_its_own(folder):
    def orders():
        data = utils.image_dataset_from_directory(folder, image_size=(2, 2), batch_size=14, seed=3, verbose=False)
        return [np.concatenate([x.reshape(len(x), -1) for x, _ in data]) for _ in range(2)]

    first, again = orders(), orders()
    assert np.array_equal(first, again)
    assert not np.array_equal(*first)
    assert np.array_equal(*(np.sort(each, axis=0) for each in first))


def test_a_model_trains_on_a_folder(folder, capsys):
    settings = {"image_size": (6, 5), "batch_size": 4, "validation_split": 0.3, "subset": "both", "seed": 1}
    training, validation = utils.image_dataset_from_directory(folder, **settings)
    assert capsys.readouterr().out.splitlines() == [
        "Found 13 files belonging to 2 classes.",
        "Using 10 files for training.",
        "Using 3 files for validation.",
    ]
    stack = [layers.Rescaling(1 / 255), layers.Flatten(), layers.Dense(2, activation="softmax")]
    model = tinyconv.Sequential(stack)
    model.compile("adam", "sparse_categorical_crossentropy", backend="reference")
    history = model.fit(training, validation_data=validation, epochs=2, verbose=0).history
    assert len(history["val_loss"]) == 2
    assert model.predict(validation).shape == (3, 2)
    assert [x.shape for x, _ in training.take(2)] == [(4, 6, 5, 3)] * 2


WRONG = {
    "directory": ({"directory": "nowhere"}, "Invalid directory .* Expected the path of a folder"),
    "labels": ({"labels": [1, 2]}, "Expected one label for each of the 15 files"),
    "kinds": ({"labels": ["a"] * 14}, 'Expected "inferred", None, or a list of integers'),
    "label_mode": ({"label_mode": "one-hot"}, "Unknown label_mode .*'categorical'"),
    "names": ({"class_names": ["c"]}, "Expected some of the folders 'a', 'b'"),
    "names of none": ({"class_names": ["a"], "labels": None}, "Invalid class_names.*unless labels="),
    "three": ({"labels": [*range(15)], "label_mode": "binary"}, r"needs two classes\. Expected 2\. Received: 15"),
    "subset": ({"subset": "training"}, "validation_split and subset belong together"),
    "seed": ({"subset": "both", "validation_split": 0.2, "shuffle": True}, "needs a seed"),
    "empty": ({"subset": "validation", "validation_split": 0.01}, "There are no validation images in "),
    "interpolation": ({"interpolation": "cubic"}, "Did you mean 'bicubic'"),
    "image_size": ({"image_size": (1, 2, 3)}, r"Expected \(height, width\)"),
    "padding": ({"pad_to_aspect_ratio": True}, r"pad_to_aspect_ratio=True\) is not supported by tinyconv yet"),
    "format": ({"format": "grain"}, r"format='grain'\) is not supported"),
    "batch_size": ({"batch_size": None}, "Invalid batch_size"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_said(folder, name):
    given, message = WRONG[name]
    with pytest.raises(ValueError, match=message):
        utils.image_dataset_from_directory(**{"directory": folder, "shuffle": False, "verbose": False, **given})


def test_what_a_dataset_of_tensorflow_has_is_refused_by_name(folder):
    data = utils.image_dataset_from_directory(folder, verbose=False)
    with pytest.raises(AttributeError, match=r"no attribute 'cache': it is no tf\.data\.Dataset.*PyDataset"):
        data.cache()
    assert repr(data) == "<ImageDataset: 13 files in 1 batches>"


def test_batches_are_mapped_as_in_keras(folder):
    def batches(library):
        settings = {"image_size": (4, 5), "batch_size": 4, "shuffle": False, "verbose": False}
        data = library.utils.image_dataset_from_directory(folder, **settings)
        mapped = data.map(lambda x, y: (x / 255.0, 2 * y), num_parallel_calls=1).prefetch(1)
        return [*mapped, *mapped.map(lambda x, y: x)], len(mapped)

    (ours, length), (theirs, expected) = batches(tinyconv), batches(keras)
    assert length == expected
    for mine, other in zip(ours, theirs, strict=True):
        for found, wanted in zip(
            *(each if isinstance(each, tuple) else (each,) for each in (mine, other)), strict=True
        ):
            np.testing.assert_allclose(found, wanted, atol=1e-5)
    with pytest.raises(ValueError, match=r"Invalid map_func of map\. Expected a function"):
        utils.image_dataset_from_directory(folder, verbose=False).map(3)


def test_a_damaged_image_is_named(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "cut.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (tmp_path / "a" / "text.png").write_text("no image")
    data = utils.image_dataset_from_directory(tmp_path, shuffle=False, batch_size=1, verbose=False)
    for name, batch in zip(("cut.png", "text.png"), itertools.count(), strict=False):
        with pytest.raises(ValueError, match=f"{name}.* Expected "):
            utils.load_img(data.file_paths[batch])


@pytest.mark.parametrize("method", METHODS)
def test_resizing_is_that_of_tensorflow(method):
    """Whose bicubic method reads its weights from a table of 1024 places."""
    for source, target in (((7, 9), (5, 4)), ((5, 4), (11, 13)), ((30, 41), (6, 7)), ((1, 3), (4, 2))):
        image = pixels(*source, 3)
        expected = np.asarray(tf.image.resize(image, target, method=method), np.float32)
        np.testing.assert_allclose(resized(image, target, method), expected, atol=0.3 if method == "bicubic" else 1e-2)


# --- single images


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    root = tmp_path_factory.mktemp("single")
    Image.fromarray(pixels(8, 11, 3)).save(root / "rgb.png")
    Image.fromarray(pixels(8, 11)).save(root / "grey.png")
    Image.fromarray(RNG.integers(0, 65536, (8, 11)).astype(np.uint16)).save(root / "deep.png")
    return root


@pytest.mark.parametrize("file", ["rgb.png", "grey.png", "deep.png"])
@pytest.mark.parametrize("color_mode", ["rgb", "rgba", "grayscale"])
def test_load_img_is_that_of_keras(files, file, color_mode):
    for settings in ({}, {"target_size": (4, 9), "interpolation": "lanczos"}, {"keep_aspect_ratio": True}):
        settings = {"target_size": (5, 3), "color_mode": color_mode, **settings}
        ours, theirs = (package.utils.load_img(files / file, **settings) for package in (tinyconv, keras))
        assert ours.mode == theirs.mode
        assert np.array_equal(np.asarray(ours), np.asarray(theirs))
    array = utils.img_to_array(ours)
    assert array.dtype == np.float32
    assert np.array_equal(array, keras.utils.img_to_array(theirs))


def test_images_and_arrays(tmp_path):
    assert utils.load_img(io.BytesIO((_saved(tmp_path, "a.png", pixels(3, 4, 3))).read_bytes())).size == (4, 3)
    for shape in ((4, 5, 1), (4, 5, 3), (4, 5, 4)):
        for scale in (True, False):
            x = RNG.random(shape) * 200
            ours, theirs = (package.utils.array_to_img(x, scale=scale) for package in (tinyconv, keras))
            assert ours.mode == theirs.mode
            assert np.array_equal(np.asarray(ours), np.asarray(theirs))
    assert utils.array_to_img(np.full((2, 2, 1), 999), scale=False).mode == "I"
    assert utils.img_to_array(np.zeros((2, 3)), dtype="uint8").dtype == np.uint8
    with pytest.warns(UserWarning, match="A JPEG file cannot be transparent"):
        _saved(tmp_path, "b.jpg", pixels(3, 4, 4))
    whole = pixels(3, 4, 3)
    path = tmp_path / "c"
    utils.save_img(path, whole, file_format="png", scale=False)
    assert np.array_equal(utils.img_to_array(utils.load_img(path)), whole)


def _saved(folder, name, array):
    utils.save_img(folder / name, array)
    return folder / name


REFUSED = {
    "mode": (lambda: utils.load_img("x.png", color_mode="cmyk"), "Unknown color_mode of load_img"),
    "path": (lambda: utils.load_img(3), "Invalid path of load_img"),
    "size": (lambda: utils.load_img("x.png", target_size=(1,)), r"target_size of load_img. Expected \(height, width\)"),
    "filter": (lambda: utils.load_img("x.png", interpolation="cubic"), "Did you mean 'bicubic'"),
    "axes": (lambda: utils.img_to_array(np.zeros(3)), "Invalid img of img_to_array"),
    "channels": (lambda: utils.array_to_img(np.zeros((2, 2, 2))), "Invalid x of array_to_img"),
    "layout": (lambda: utils.img_to_array(np.zeros((2, 2)), "channels_first"), "data_format='channels_first'"),
    "type": (lambda: utils.img_to_array(np.zeros((2, 2)), dtype="text"), "Invalid dtype of img_to_array"),
    "suffix": (lambda: utils.save_img("x", np.zeros((2, 2, 1))), "Invalid file_format of save_img"),
    "format": (lambda: utils.save_img("x.pgn", np.zeros((2, 2, 1))), "Did you mean 'png'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_wrong_argument_is_named(name):
    call, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        call()


def test_normalize_divides_by_lengths():
    x = RNG.standard_normal((3, 4, 5))
    x[1, 2] = 0
    for order in (1, 2):
        np.testing.assert_allclose(utils.normalize(x, order=order), keras.utils.normalize(x, order=order))
    np.testing.assert_allclose(np.linalg.norm(utils.normalize(x, axis=0), axis=0), np.ones((4, 5)))
    with pytest.raises(ValueError, match="Invalid axis of normalize"):
        utils.normalize(x, axis=3)
