"""MNIST from the files inside the package, and other sets from TensorFlow Datasets, all without a network."""

import builtins
import gzip
import hashlib
import io
import json
import socket
import subprocess
import sys
import tarfile
import time
import zipfile

import numpy as np
import pytest

import tinyconv
from tinyconv import datasets
from tinyconv.datasets import cifar10, fashion_mnist, mnist, official, tfds

# --- the files inside the package


def test_mnist_is_the_official_one():
    (x_train, y_train), (x_test, y_test) = tinyconv.datasets.mnist.load_data()
    assert (x_train.shape, y_train.shape) == ((60000, 28, 28), (60000,))
    assert (x_test.shape, y_test.shape) == ((10000, 28, 28), (10000,))
    assert all(array.dtype == np.uint8 and array.flags.writeable for array in (x_train, y_train, x_test, y_test))
    assert y_train[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert np.bincount(y_test).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert round(float(x_train.mean()), 4) == 33.3184


def test_mnist_needs_no_network(monkeypatch, record_property):
    def refuse(*_, **__):
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    start = time.perf_counter()
    mnist.load_data()
    record_property("seconds to load MNIST", round(time.perf_counter() - start, 2))


def test_the_licence_note_lies_beside_the_files():
    note = (mnist.FOLDER / "SOURCE.md").read_text()
    assert "LeCun" in note
    assert "Attribution-ShareAlike 3.0" in note
    for name, file in mnist.FILES.items():
        assert f"| {name} | {file.size} | {file.sha256} |" in note


def write(monkeypatch, folder, data, name="t10k-labels-idx1-ubyte.gz", trusted=True):
    """Make ``data`` the content of one of the four files; ``trusted``: as if its SHA-256 were the expected one."""
    for other in mnist.FILES:
        (folder / other).symlink_to(mnist.FOLDER / other)
    (folder / name).unlink()
    (folder / name).write_bytes(data)
    monkeypatch.setattr(mnist, "FOLDER", folder)
    if trusted:
        changed = official.OfficialFile(len(data), hashlib.sha256(data).hexdigest(), mnist.FILES[name].shape)
        monkeypatch.setitem(mnist.FILES, name, changed)


def test_a_missing_file_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(mnist, "FOLDER", tmp_path)
    with pytest.raises(OSError, match=r"Cannot read .*train-images-idx3-ubyte\.gz: No such file.*Reinstall tinyconv"):
        mnist.load_data()


@pytest.mark.parametrize("damage", ["flipped", "truncated", "longer", "empty"])
def test_a_damaged_file_is_refused_before_it_is_parsed(monkeypatch, tmp_path, damage):
    data = bytearray((mnist.FOLDER / "t10k-labels-idx1-ubyte.gz").read_bytes())
    if damage == "flipped":
        data[2000] ^= 1
    else:
        data = {"truncated": data[:-1], "longer": data + b"\0", "empty": b""}[damage]
    write(monkeypatch, tmp_path, bytes(data), trusted=False)
    monkeypatch.setattr(official, "parse_idx", lambda compressed, *_: np.zeros(len(compressed)))
    with pytest.raises(
        OSError, match=r"t10k-labels.* is damaged\. Expected SHA-256 f7ae60f9.*\. Received: [0-9a-f]{64}"
    ):
        mnist.load_data()


HEADER = bytes([0, 0, 8, 1, 0, 0, 0x27, 0x10])  # 10000 labels


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            bytes([0, 0, 9, 1]) + HEADER[4:] + bytes(10000),
            r"wrong IDX header\. Expected 00 00 08 01 .* Received: 00 00 09",
        ),
        (HEADER[:4] + b"\xff\xff\xff\xff" + bytes(10000), "wrong IDX header.* Received: 00 00 08 01 ff ff ff ff"),
        (HEADER + bytes(9999), "wrong length. Expected 10,008 bytes. Received: only 10,007"),
        (HEADER + bytes(100_000_000), "wrong length. Expected 10,008 bytes. Received: more"),
        (b"", "wrong IDX header"),
    ],
    ids=["type", "size", "short", "bomb", "empty"],
)
def test_the_content_is_checked_and_its_decompression_bounded(monkeypatch, tmp_path, content, message):
    write(monkeypatch, tmp_path, gzip.compress(content))
    with pytest.raises(OSError, match=message):
        mnist.load_data()


def test_no_gzip_file(monkeypatch, tmp_path):
    write(monkeypatch, tmp_path, b"<html>not found</html>")
    with pytest.raises(OSError, match=r"t10k-labels-idx1-ubyte\.gz is not a gzip file"):
        mnist.load_data()


# --- official files in a folder


@pytest.fixture
def nowhere(monkeypatch, tmp_path):
    """No data of the user's, and no TensorFlow Datasets."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv(official.ENVIRONMENT, raising=False)

    def load(name):
        raise ImportError("datasets.load needs tensorflow_datasets: pip install ...")

    monkeypatch.setattr(tfds, "load", load)
    return tmp_path


def made_fashion(monkeypatch, folder):
    """Four small files that count as the official ones."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(1)
    arrays = []
    for name, file in fashion_mnist.FILES.items():
        shape = (3, *file.shape[1:])
        arrays.append(rng.integers(0, 10, shape).astype(np.uint8))
        header = bytes([0, 0, 8, len(shape)]) + b"".join(n.to_bytes(4, "big") for n in shape)
        content = gzip.compress(header + arrays[-1].tobytes())
        (folder / name).write_bytes(content)
        known = official.OfficialFile(len(content), hashlib.sha256(content).hexdigest(), shape)
        monkeypatch.setitem(fashion_mnist.FILES, name, known)
    return arrays


@pytest.mark.parametrize("where", ["argument", "environment", "cache", "Keras"])
def test_fashion_mnist_is_read_from_its_files(monkeypatch, nowhere, where):
    places = {"Keras": "home/.keras/datasets", "cache": "cache/tinyconv/datasets"}
    folder = nowhere / places.get(where, "mine") / "fashion-mnist"
    arrays = made_fashion(monkeypatch, folder)
    if where == "environment":
        monkeypatch.setenv(official.ENVIRONMENT, str(nowhere / "mine"))
    train, test = fashion_mnist.load_data(data_dir=folder if where == "argument" else None)
    assert all(map(np.array_equal, (*train, *test), arrays))
    next(iter(folder.iterdir())).write_bytes(b"something else")
    with pytest.raises(OSError, match=r"The Fashion-MNIST file .* is damaged\. Expected SHA-256 .*github\.com"):
        fashion_mnist.load_data(data_dir=folder)


def made_cifar(folder, samples=2):
    """The six files, of a few images each."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(1)
    rows = {}
    for name in (*cifar10.TRAINING, *cifar10.TEST):
        rows[name] = rng.integers(0, 256, (samples, 3073)).astype(np.uint8)
        rows[name][:, 0] %= 10
        (folder / name).write_bytes(rows[name].tobytes())
    return rows


def test_cifar_is_read_from_its_files_and_from_its_archive(monkeypatch, nowhere):
    rows = made_cifar(nowhere / "mine" / cifar10.FOLDER)
    (x_train, y_train), (x_test, y_test) = cifar10.load_data(data_dir=nowhere / "mine")
    assert (x_train.shape, y_train.shape) == ((10, 32, 32, 3), (10, 1))
    assert (x_train.dtype, y_test.dtype) == (np.uint8, np.uint8)
    second = rows["data_batch_2.bin"]
    assert np.array_equal(y_train[2:4], second[:, :1])
    assert x_train[2, 1, 5].tolist() == [second[0, 1 + 1024 * colour + 32 + 5] for colour in range(3)]

    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        tar.add(nowhere / "mine" / cifar10.FOLDER, cifar10.FOLDER)
    other = nowhere / "cache/tinyconv/datasets/cifar-10"
    other.mkdir(parents=True)
    (other / cifar10.ARCHIVE).write_bytes(archive.getvalue())
    with pytest.raises(OSError, match=r"The CIFAR-10 file .*tar\.gz is damaged\. Expected SHA-256 c4a38c50"):
        cifar10.load_data()
    known = official.OfficialFile(len(archive.getvalue()), hashlib.sha256(archive.getvalue()).hexdigest())
    monkeypatch.setattr(cifar10, "OFFICIAL", known)
    assert np.array_equal(cifar10.load_data()[1][0], x_test)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "wrong length. Expected 3073 bytes for each"),
        (bytes(3000), "wrong length"),
        (b"\xff" * 3073, "Expected labels to 9. Received: 255"),
        (None, "it is not there"),
    ],
)
def test_a_damaged_file_of_cifar_is_refused(nowhere, content, message):
    made_cifar(nowhere / "mine")
    path = nowhere / "mine" / "data_batch_3.bin"
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(OSError, match=rf"data_batch_3\.bin.*{message}.*www\.cs\.toronto\.edu"):
        cifar10.load_data(data_dir=nowhere / "mine")


@pytest.mark.parametrize(("module", "file"), [(cifar10, "cifar-10-binary.tar.gz"), (fashion_mnist, "t10k-labels")])
def test_data_that_are_nowhere_say_where_they_could_be(nowhere, module, file):
    with pytest.raises(RuntimeError) as caught:
        module.load_data()
    message = str(caught.value)
    assert "is not on this computer, and TensorFlow Datasets cannot get it (datasets.load needs tensor" in message
    for part in (file, module.SOURCE, str(nowhere / "cache" / "tinyconv"), "data_dir=", "TINYCONV_DATA", "pip install"):
        assert part in message
    with pytest.raises(OSError, match=f"Cannot read the .*{file if module is cifar10 else 'train-images'}"):
        module.load_data(data_dir=nowhere)
    with pytest.raises(ValueError, match=r"data_dir expects an existing folder\. Received: 'no'"):
        module.load_data(data_dir="no")


# --- TensorFlow Datasets


@pytest.fixture
def fake(monkeypatch, tmp_path):
    """TFDS' own fake data: seven made examples of whatever set is asked for, and nothing is downloaded."""
    tensorflow_datasets = pytest.importorskip("tensorflow_datasets")
    pytest.importorskip("tensorflow")
    monkeypatch.setattr(tfds, "_check_network", lambda *_: None)
    with tensorflow_datasets.testing.mock_data(num_examples=7):
        yield {"data_dir": tmp_path / "data", "cache_dir": tmp_path / "cache"}


def test_a_set_is_arrays_and_class_names(fake):
    data = datasets.load("cifar10", **fake)
    (x_train, y_train), (x_test, y_test) = data
    assert (x_train.shape, x_train.dtype) == ((7, 32, 32, 3), np.uint8)
    assert (y_train.shape, y_train.dtype) == ((7,), np.int64)
    assert x_test.shape == x_train.shape
    assert y_test.shape == (7,)
    assert x_train.any()
    assert len(data.class_names) == 10
    assert (data.name, data.splits) == ("cifar10/3.0.2", ("train", "test"))
    assert repr(data).startswith("<Dataset cifar10/3.0.2: 'train' uint8 (7, 32, 32, 3) and 'test'")


def test_the_second_load_comes_from_the_cache(fake, monkeypatch):
    first = datasets.load("cifar10", **fake)
    monkeypatch.setattr(tfds, "_tensorflow_datasets", None)  # what would be called now
    second = datasets.load("cifar10", **fake)
    assert (second.name, second.class_names, second.splits) == (first.name, first.class_names, first.splits)
    for ours, theirs in zip([*second.train, *second.test], [*first.train, *first.test], strict=True):
        assert np.array_equal(ours, theirs)
        assert ours.dtype == theirs.dtype


def test_another_request_is_another_cache_file(fake):
    datasets.load("cifar10", **fake)
    parts = datasets.load("cifar10", split=("train[:80%]", "train[80%:]"), **fake)
    assert parts.splits == ("train[:80%]", "train[80%:]")
    assert len(list(fake["cache_dir"].iterdir())) == 2


def test_a_damaged_cache_file_is_made_anew(fake):
    first = datasets.load("cifar10", **fake)
    (file,) = fake["cache_dir"].iterdir()
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 255
    for damaged in (bytes(data), bytes(data[:1000]), b""):
        file.write_bytes(damaged)
        assert np.array_equal(datasets.load("cifar10", **fake).train[0], first.train[0])


def cached(folder, **changed):
    """A cache file, whose arrays may be others."""
    arrays = {"x_train": np.ones((3, 2, 2, 1), np.uint8), "y_train": np.arange(3)}
    arrays |= {"x_test": np.ones((1, 2, 2, 1), np.uint8), "y_test": np.arange(1)}
    about = json.dumps({"name": "made", "splits": ["a", "b"], "class_names": ["x"]})
    path = folder / "set.npz"
    np.savez(path, **({"about": np.array(about)} | arrays | changed))
    return path


def test_a_cache_file_is_believed_only_as_far_as_it_holds(tmp_path):
    whole = tfds._read_cache(cached(tmp_path))
    assert (whole.name, whole.splits, whole.class_names) == ("made", ("a", "b"), ("x",))
    assert all(array.flags.writeable for array in (*whole.train, *whole.test))
    content = cached(tmp_path).read_bytes()
    huge = content.replace(b"'shape': (3, 2, 2, 1), }", b"'shape': (1<<60,),     }")
    assert huge != content
    (tmp_path / "set.npz").write_bytes(huge)
    assert tfds._read_cache(tmp_path / "set.npz") is None
    columns = np.asfortranarray(np.arange(12, dtype=np.uint8).reshape(3, 2, 2, 1))
    np.testing.assert_array_equal(tfds._read_cache(cached(tmp_path, x_train=columns)).train[0], columns)
    for changed in (
        {"y_train": np.arange(2)},
        {"x_train": np.array([{}], object)},
        {"about": np.array("[" * 1000)},
        {"about": np.array("{}")},
    ):
        assert tfds._read_cache(cached(tmp_path, **changed)) is None
    with zipfile.ZipFile(cached(tmp_path)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    assert tfds._read_cache(tmp_path / "bomb.npz") is None


def test_no_damage_of_a_cache_file_raises(tmp_path):
    rng, content = np.random.default_rng(0), cached(tmp_path).read_bytes()
    path = tmp_path / "damaged.npz"
    for _ in range(500):
        changed = bytearray(content)
        for at in rng.integers(len(content), size=rng.integers(1, 4)):
            changed[at] ^= 1 << rng.integers(8)
        path.write_bytes(changed[: len(changed) if rng.random() < 0.8 else rng.integers(len(changed))])
        found = tfds._read_cache(path)
        assert found is None or len(found.train[0]) == len(found.train[1])


def test_a_cache_that_cannot_be_written_costs_only_a_warning(fake, tmp_path):
    (tmp_path / "file").write_text("in the way")
    fake["cache_dir"] = tmp_path / "file" / "cache"
    with pytest.warns(UserWarning, match=r"not kept for the next time.*cache_dir="):
        assert datasets.load("cifar10", **fake).train[0].shape == (7, 32, 32, 3)


def test_images_of_different_sizes_need_one(fake):
    with pytest.raises(
        ValueError, match=r"'tf_flowers' differ in size.*Fix: load\('tf_flowers', image_size=\(96, 96\)\)"
    ):
        datasets.load("tf_flowers", **fake)
    data = datasets.load("tf_flowers", split=("train[:80%]", "train[80%:]"), image_size=(20, 30), **fake)
    assert data.train[0].shape == (7, 20, 30, 3)
    assert data.train[0].dtype == np.uint8


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cifar11", r"Unknown data set\. Did you mean .*'cifar10'.* Received: 'cifar11'"),
        ("cifar10:1.0.0", "has no 'cifar10:1.0.0'.*only: 3.0.2"),
        ("imdb_reviews", r"is not an image-classification dataset.*Received: text \(Text\), label \(ClassLabel\)"),
        ("coco", "is not an image-classification dataset"),
    ],
)
def test_an_unsuitable_set_is_refused(fake, name, message):
    with pytest.raises(ValueError, match=message):
        datasets.load(name, **fake)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"name": 3}, TypeError, "expects the name of a data set. Received: 3"),
        ({"name": "mnist", "split": "train"}, ValueError, "split expects two names.* Received: 'train'"),
        ({"name": "mnist", "image_size": (0, 9)}, ValueError, r"expects \(height, width\)\. Received: \(0, 9\)"),
        ({"name": ""}, TypeError, "expects the name of a data set. Received: ''"),
        ({"name": "mnist", "split": "ab"}, ValueError, "split expects two names.* Received: 'ab'"),
        ({"name": "mnist", "split": 5}, ValueError, "split expects two names.* Received: 5"),
        ({"name": "mnist", "split": ("train", 1)}, ValueError, "split expects two names"),
        ({"name": "mnist", "image_size": 28}, ValueError, r"expects \(height, width\)\. Received: 28"),
        ({"name": "mnist", "image_size": ("a", 2)}, ValueError, r"expects \(height, width\)"),
        ({"name": "mnist", "image_size": (2.5, 2)}, ValueError, r"expects \(height, width\)"),
        ({"name": "mnist", "image_size": (True, 2)}, ValueError, r"expects \(height, width\)"),
        ({"name": "mnist", "image_size": (2**40, 2)}, ValueError, r"expects \(height, width\)"),
        ({"name": "mnist", "cache_dir": 5}, ValueError, "cache_dir expects the path of a folder. Received: 5"),
        ({"name": "mnist", "data_dir": ""}, ValueError, "data_dir expects the path of a folder. Received: ''"),
        ({"name": "mnist", "manual_dir": 1.5}, ValueError, "manual_dir expects the path of a folder"),
        ({"name": "mnist", "manual_dir": "/no/such"}, ValueError, "expects an existing folder. Received: '/no/such'"),
    ],
)
def test_wrong_arguments_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        datasets.load(**arguments)


@pytest.mark.parametrize("missing", ["tensorflow_datasets", "tensorflow", "importlib_resources"])
def test_a_missing_extra_is_one_line(monkeypatch, tmp_path, missing):
    import_module = builtins.__import__

    def refuse(name, *rest):
        if name in {missing, "importlib_resources", "tensorflow", "tensorflow_datasets"}:
            if name != missing:
                return None  # the others are there
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return import_module(name, *rest)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ImportError) as caught:
        datasets.load("cifar10", cache_dir=tmp_path)
    assert str(caught.value) == f"datasets.load needs {missing}: pip install 'tinyconv[datasets]'"


def test_a_failed_download_says_what_to_do(monkeypatch, tmp_path):
    pytest.importorskip("tensorflow_datasets")
    pytest.importorskip("tensorflow")

    def refuse(address, **_):
        raise OSError("Network is unreachable")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr("urllib.request.getproxies", dict)
    with pytest.raises(RuntimeError) as caught:
        datasets.load("cifar10", data_dir=tmp_path, cache_dir=tmp_path)
    message = str(caught.value)
    assert "Cannot prepare 'cifar10': OSError: no connection to www.cs.toronto.edu (Network is unreachable)" in message
    assert "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz (162.17 MiB)" in message
    assert "manual_dir=" in message
    assert "data_dir=" in message


def test_importing_tinyconv_imports_no_tensorflow():
    code = (
        "import sys, tinyconv; print([name for name in sys.modules if name.startswith(('tensorflow', 'matplotlib'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.slow  # TFDS takes half a minute to prepare it
def test_mnist_through_tfds_is_the_bundled_one_in_another_order(monkeypatch, tmp_path):
    pytest.importorskip("tensorflow_datasets")

    def refuse(*_, **__):
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "create_connection", refuse)
    data = datasets.load("mnist", data_dir=tmp_path / "data", cache_dir=tmp_path / "cache")
    for (x, y), (x_official, y_official) in zip(data, mnist.load_data(), strict=True):
        assert x.shape == (*x_official.shape, 1)
        assert contents(x, y) == contents(x_official, y_official)
    monkeypatch.setattr(tfds, "_tensorflow_datasets", None)  # what would be called now: the second load needs no TFDS
    again = datasets.load("mnist", data_dir=tmp_path / "data", cache_dir=tmp_path / "cache")
    assert np.array_equal(again.train[0], data.train[0])


def contents(x, y):
    """All (image, label) pairs, in an order of their own."""
    return sorted(image.tobytes() + bytes([label]) for image, label in zip(x, y, strict=True))


def test_keras_names_fall_back_on_tensorflow_datasets(fake, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (x, y), _ = cifar10.load_data()
    assert (x.shape[1:], y.shape, y.dtype) == ((32, 32, 3), (len(x), 1), np.uint8)
    (x, y), _ = fashion_mnist.load_data()
    assert (x.shape[1:], y.shape, y.dtype) == ((28, 28), (len(x),), np.uint8)
