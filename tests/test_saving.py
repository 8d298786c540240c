"""Weights and models in files: round trips, continued training, atomic writes, and what errors say."""

import fcntl
import hashlib
import json
import os
import struct
import subprocess
import sys
import warnings
import zipfile

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

import tinyconv
from tinyconv import initializers, layers, losses, metrics, optimizers, regularizers
from tinyconv.files import atomic, checked_json, hdf5, keras_archive, keras_weights, safetensors
from tinyconv.saving import load_model


def make(optimizer="adam", seed=0, compiled=True):
    """A small model with every kind of weight and of randomness."""
    tinyconv.utils.set_random_seed(seed)
    model = tinyconv.Sequential(
        [
            tinyconv.Input((6, 6, 1)),
            layers.Conv2D(3, 3, kernel_regularizer=regularizers.L2(0.01)),
            layers.BatchNormalization(),
            layers.Activation("relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dropout(0.3),
            layers.Dense(4, activation="softmax"),
        ]
    )
    if compiled:
        model.compile(optimizer, "categorical_crossentropy", metrics=["accuracy"], backend="reference")
    return model


def data(seed=0, samples=20):
    rng = np.random.default_rng(seed)
    return rng.random((samples, 6, 6, 1), np.float32), np.eye(4, dtype=np.float32)[rng.integers(0, 4, samples)]


def train(model, epochs, initial_epoch=0, **more):
    x, y = data()
    return model.fit(x, y, batch_size=8, epochs=epochs, initial_epoch=initial_epoch, verbose=0, **more)


def digest(model):
    """The SHA-256 of all that training goes on from."""
    found = hashlib.sha256()
    for array in model.get_weights():
        found.update(array.tobytes())
    for slot in model.optimizer.slots:
        for array in model.optimizer_state()[slot].values():
            found.update(array.tobytes())
    return found.hexdigest()


OPTIMIZERS = {
    "adam": lambda: optimizers.Adam(0.01),
    "adamw": lambda: optimizers.AdamW(optimizers.schedules.CosineDecay(0.02, 10)),
    "sgd": lambda: optimizers.SGD(0.1),
    "momentum": lambda: optimizers.SGD(0.1, momentum=0.9, nesterov=True),
    "exponential": lambda: optimizers.SGD(optimizers.schedules.ExponentialDecay(0.1, 3, 0.5, staircase=True)),
    "piecewise": lambda: optimizers.Adam(optimizers.schedules.PiecewiseConstantDecay([2, 4], [0.1, 0.01, 0.001])),
    "one cycle": lambda: optimizers.Adam(optimizers.schedules.OneCycle(0.01, 10)),
}


# Round trips


@pytest.mark.parametrize("suffix", [".safetensors", ".weights.h5"])
def test_weights_come_back_as_they_were(tmp_path, suffix):
    model, other = make(), make(seed=1)
    train(model, 1)
    model.save_weights(tmp_path / f"m{suffix}")
    other.load_weights(tmp_path / f"m{suffix}")
    for ours, theirs in zip(model.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    x, _ = data()
    np.testing.assert_array_equal(model.predict(x), other.predict(x))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_saved_model_goes_on_where_it_stopped(tmp_path, optimizer):
    whole, stopped = make(OPTIMIZERS[optimizer]()), make(OPTIMIZERS[optimizer]())
    train(whole, 4)
    train(stopped, 2)
    stopped.save(tmp_path / "m.keras")
    tinyconv.utils.set_random_seed(99)
    resumed = load_model(tmp_path / "m.keras", backend="reference")
    assert digest(resumed) == digest(stopped)
    train(resumed, 4, initial_epoch=2)
    assert digest(resumed) == digest(whole)
    assert resumed.optimizer.iterations == whole.optimizer.iterations == 12


def test_training_goes_on_from_weights_and_state_of_a_keras_weights_file(tmp_path):
    whole, stopped, resumed = make(), make(), make()
    train(whole, 4)
    train(stopped, 2)
    stopped.save_weights(tmp_path / "m.weights.h5")
    train(resumed, 1)  # as in Keras, an optimiser that has not trained takes no state
    resumed.load_weights(tmp_path / "m.weights.h5")
    train(resumed, 4, initial_epoch=2)
    assert digest(resumed) == digest(whole)


def test_a_model_that_was_not_compiled_can_be_saved(tmp_path):
    model = make(compiled=False)
    model.save(tmp_path / "m.keras")
    loaded = load_model(tmp_path / "m.keras")
    assert loaded.optimizer is None
    np.testing.assert_array_equal(model.get_weights()[0], loaded.get_weights()[0])


def test_compile_false_leaves_the_optimiser_out(tmp_path):
    make().save(tmp_path / "m.keras")
    assert load_model(tmp_path / "m.keras", compile=False).optimizer is None


def test_the_same_model_makes_the_same_file(tmp_path):
    for suffix in (".keras", ".safetensors", ".weights.h5"):
        contents = []
        for name in ("a", "b"):
            path = tmp_path / f"{name}{suffix}"
            make().save(path) if suffix == ".keras" else make().save_weights(path)
            contents.append(path.read_bytes())
        assert contents[0] == contents[1]


def test_a_learning_rate_that_a_callback_changed_is_kept(tmp_path):
    model = make()
    train(model, 1)
    model.optimizer.learning_rate = 0.0125
    model.save(tmp_path / "m.keras")
    assert float(load_model(tmp_path / "m.keras").optimizer.learning_rate) == np.float32(0.0125)


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("suffix", [".weights.h5", ".safetensors"])
def test_loading_weights_leaves_the_learning_rate_that_compile_was_given(tmp_path, trained, suffix):
    model, other = make(optimizers.Adam(1e-2)), make(optimizers.Adam(1e-5))
    train(model, 1)
    model.save_weights(tmp_path / f"m{suffix}")
    if trained:
        train(other, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        other.load_weights(tmp_path / f"m{suffix}")
    assert other.optimizer.learning_rate == 1e-5
    assert other.optimizer.built == trained


def test_an_optimiser_that_has_not_trained_takes_no_state(tmp_path):
    model, other = make(), make()
    model.save_weights(tmp_path / "new.weights.h5")
    train(model, 1)
    model.save_weights(tmp_path / "m.weights.h5")
    with pytest.warns(
        UserWarning,
        match="Skipping variable loading for optimizer 'adam', because it has 2 variables whereas the saved optimizer "
        "has 14 variables",
    ):
        other.load_weights(tmp_path / "m.weights.h5")
    assert other.optimizer.iterations == 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        other.load_weights(tmp_path / "new.weights.h5")  # neither has a state


def test_the_state_of_another_optimiser_is_left_with_a_warning(tmp_path):
    model, other = make("sgd"), make("adam")
    train(model, 1)
    train(other, 1)
    before = digest(other)
    model.save_weights(tmp_path / "m.weights.h5")
    with pytest.warns(UserWarning, match="because it has 14 variables whereas the saved optimizer has 2 variables"):
        other.load_weights(tmp_path / "m.weights.h5")
    assert other.optimizer.iterations == 3
    np.testing.assert_array_equal(model.get_weights()[0], other.get_weights()[0])
    other.set_weights(make("adam").get_weights())
    assert digest(other) != before


def test_a_damaged_optimiser_leaves_the_weights(tmp_path):
    model, other = make(), make(seed=1)
    train(model, 1)
    train(other, 1)
    before = digest(other)
    arrays = dict(hdf5.loads(keras_weights.dumps(model), "it"))
    arrays["optimizer/vars/0"] = np.array(-1)
    (tmp_path / "m.weights.h5").write_bytes(hdf5.dumps(arrays, {}))
    with pytest.raises(ValueError, match=r"m.weights.h5' is damaged: the optimiser's state is not possible"):
        other.load_weights(tmp_path / "m.weights.h5")
    assert digest(other) == before


# Weights of another model


def with_head(classes, use_bias=True):
    model = tinyconv.Sequential(
        [
            tinyconv.Input((6, 6, 1)),
            layers.Conv2D(3, 3, use_bias=use_bias, name="body"),
            layers.Flatten(),
            layers.Dense(classes, name="head"),
        ]
    )
    model.compile("adam", "mse", backend="reference")
    return model


@pytest.mark.parametrize("suffix", [".safetensors", ".weights.h5"])
def test_layers_that_do_not_fit_are_skipped_and_named(tmp_path, suffix):
    model, other = with_head(3), with_head(7)
    model.save_weights(tmp_path / f"m{suffix}")
    head = other.get_layer("head").get_weights()
    with pytest.raises(ValueError, match="does not fit"):
        other.load_weights(tmp_path / f"m{suffix}")
    with pytest.warns(UserWarning, match=r"1 layers were skipped, since they do not fit. 'head': .*\(48, 3\)"):
        other.load_weights(tmp_path / f"m{suffix}", skip_mismatch=True)
    for layer, expected in (("body", model.get_layer("body").get_weights()), ("head", head)):
        for ours, theirs in zip(other.get_layer(layer).get_weights(), expected, strict=True):
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("suffix", [".safetensors", ".weights.h5"])
def test_a_layer_is_skipped_whole_and_what_is_too_much_is_named(tmp_path, suffix):
    model, other = with_head(3), with_head(3, use_bias=False)
    model.add(layers.Dense(2, name="more"))
    model.save_weights(tmp_path / f"m{suffix}")
    kernel = other.get_layer("body").get_weights()[0]
    with pytest.warns(UserWarning, match=r"2 layers were skipped.*'body': .*'(more|dense_1)': is not a layer"):
        other.load_weights(tmp_path / f"m{suffix}", skip_mismatch=True)
    np.testing.assert_array_equal(other.get_layer("body").get_weights()[0], kernel)
    np.testing.assert_array_equal(other.get_layer("head").get_weights()[0], model.get_layer("head").get_weights()[0])


def test_where_all_fits_skip_mismatch_says_nothing(tmp_path):
    with_head(3).save_weights(tmp_path / "m.safetensors")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with_head(3).load_weights(tmp_path / "m.safetensors", skip_mismatch=True)
    with pytest.raises((TypeError, ValueError), match="by_name"):
        with_head(3).load_weights(tmp_path / "m.safetensors", by_name=True)


# Frozen layers


@pytest.mark.parametrize("frozen", [["conv2d"], ["batch_normalization", "dense"], [], None])
def test_frozen_layers_stay_frozen(tmp_path, frozen):
    """None: the whole model."""
    model = make(compiled=False)
    for layer in model.layers:
        layer.trainable = frozen is not None and layer.name not in frozen
    if frozen is None:
        model.trainable = False
    model.compile("adam", "categorical_crossentropy", backend="reference")
    if frozen is not None:
        train(model, 1)
    model.save(tmp_path / "m.keras")
    loaded = load_model(tmp_path / "m.keras", backend="reference")
    assert [layer.trainable for layer in loaded.layers] == [layer.trainable for layer in model.layers]
    if frozen is not None:
        assert digest(loaded) == digest(model)
        train(loaded, 2, initial_epoch=1)
        train(model, 2, initial_epoch=1)
        assert digest(loaded) == digest(model)


# Configuration


def test_names_and_arrays_of_the_configuration_come_back(tmp_path):
    values = [[0.5, -1.0], [0.25, 3.0], [1e-3, 2.0]]
    kernel = layers.Dense(2, kernel_initializer=initializers.Constant(np.array(values)), name="first")
    model = tinyconv.Sequential([tinyconv.Input((3,)), kernel], name="mine")
    model.compile(
        optimizers.SGD(0.25, name="slow"),
        losses.MeanSquaredError(name="distance"),
        metrics=[metrics.BinaryAccuracy(name="hits")],
    )
    model.save(tmp_path / "m.keras")
    loaded = load_model(tmp_path / "m.keras")
    assert (loaded.name, loaded.optimizer.name, loaded.loss.name) == ("mine", "slow", "distance")
    assert [metric.name for metric in loaded.metrics] == ["hits"]
    np.testing.assert_array_equal(loaded.layers[0].kernel_initializer.value, values)
    loaded.save(tmp_path / "again.keras")
    assert (tmp_path / "again.keras").read_bytes() == (tmp_path / "m.keras").read_bytes()


# safetensors


def test_safetensors_files_open_in_the_safetensors_library_and_carry_their_hash(tmp_path):
    model, path = make(), tmp_path / "m.safetensors"
    model.save_weights(path)
    with safe_open(path, "np") as file:
        metadata = file.metadata()
        names = {f"{layer.name}/{name}": array for layer in model.layers for name, array in layer.arrays.items()}
        assert set(file.keys()) == set(names)
        for name, array in names.items():
            np.testing.assert_array_equal(file.get_tensor(name), array)
    content = path.read_bytes()
    header = struct.unpack("<Q", content[:8])[0]
    assert metadata["sha256"] == hashlib.sha256(content[8 + header :]).hexdigest()


def test_a_changed_bit_is_noticed(tmp_path):
    path = tmp_path / "m.safetensors"
    make().save_weights(path)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="is damaged: the SHA-256 of its data is not the one in its metadata"):
        make().load_weights(path)


def test_names_shapes_and_types_must_fit_exactly(tmp_path):
    path, model = tmp_path / "m.safetensors", make()
    arrays = {f"{layer.name}/{name}": array for layer in model.layers for name, array in layer.arrays.items()}

    def refused(changed, message):
        path.write_bytes(safetensors.dumps(changed))
        with pytest.raises(ValueError, match=message):
            model.load_weights(path)

    refused({**arrays, "dense/kernel": arrays["dense/kernel"].T}, r"Expected float32 of shape \(12, 4\). Received")
    refused({**arrays, "dense/kernel": arrays["dense/kernel"].astype(float)}, r"Received: float64 of shape \(12, 4\)")
    refused({**arrays, "more": arrays["dense/kernel"]}, "'more' is not a weight of this model")
    refused({k: v for k, v in arrays.items() if k != "conv2d/bias"}, "'conv2d/bias' is missing")


def test_a_safetensors_file_without_a_hash_is_refused_with_the_fix(tmp_path):
    save_file({"a": np.zeros(3, np.float32)}, tmp_path / "m.safetensors")
    with pytest.raises(ValueError, match=r"has no SHA-256 in its metadata.*Fix: read other files with the safetensors"):
        make().load_weights(tmp_path / "m.safetensors")


def test_two_weights_of_one_shape_cannot_change_places():
    """Not by their names in the header, nor by their offsets: the order of the names is fixed."""
    content = safetensors.dumps({"a": np.zeros(2, np.float32), "b": np.ones(2, np.float32)})
    length = struct.unpack("<Q", content[:8])[0]
    header, body = content[8 : 8 + length], content[8 + length :]
    swapped_names = header.replace(b'"a"', b'"?"').replace(b'"b"', b'"a"').replace(b'"?"', b'"b"')
    swapped_offsets = header.replace(b"[0,8]", b"[?]").replace(b"[8,16]", b"[0,8]").replace(b"[?]", b"[8,16]")
    for changed in (swapped_names, swapped_offsets):
        assert changed != header
        assert len(changed) == length
        with pytest.raises(ValueError, match="is damaged"):
            safetensors.loads(content[:8] + changed + body, "it")


# Errors


def test_unknown_suffixes_name_the_known_ones():
    with pytest.raises(ValueError, match=r"Expected a name that ends in .safetensors or .weights.h5. Received: 'm.h5'"):
        make().save_weights("m.h5")
    with pytest.raises(ValueError, match=r"Expected a name that ends in .keras. Received: 'm.pt'"):
        load_model("m.pt")


def test_unsafe_loading_does_not_exist(tmp_path):
    with pytest.raises(ValueError, match=r"is not supported by tinyconv yet"):
        load_model(tmp_path / "m.keras", safe_mode=False)
    with pytest.raises(ValueError, match=r"Invalid custom_objects\. Expected None, or a dict of classes by name"):
        load_model(tmp_path / "m.keras", custom_objects={"Mine": 3})


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"There is no folder .*nowhere"):
        make().save(tmp_path / "nowhere" / "m.keras")


def test_an_existing_file_is_kept_where_that_is_wanted(tmp_path):
    (tmp_path / "m.keras").write_bytes(b"mine")
    with pytest.raises(FileExistsError, match=r"exists already. Fix: overwrite=True"):
        make().save(tmp_path / "m.keras", overwrite=False)
    assert (tmp_path / "m.keras").read_bytes() == b"mine"


def test_a_layer_of_your_own_is_named_when_it_cannot_be_saved(tmp_path):
    class Multiplied(layers.Layer):
        def __init__(self, factor, **options):
            super().__init__(**options)
            self.factor = factor

        def forward(self, out, x, weights):
            out[...] = self.factor * x

    model = tinyconv.Sequential([tinyconv.Input((3,)), Multiplied(np.ones(3), name="twice")])
    with pytest.raises(ValueError, match=r"layer 'twice'.*its argument 'factor' is no number and no text"):
        model.save(tmp_path / "m.keras")
    assert os.listdir(tmp_path) == []


def archive_with(path, **members):
    """A saved model, some members of which are replaced."""
    contents = {name.replace("_json", ".json"): content for name, content in members.items()}
    with zipfile.ZipFile(keras_archive.io.BytesIO(keras_archive.dumps(make()))) as source:
        contents = {name: source.read(name) for name in source.namelist()} | contents
    with zipfile.ZipFile(path, "w") as target:
        for name, content in contents.items():
            target.writestr(name, content)


def edited(edit):
    config = json.loads(json.dumps(keras_archive.keras_config.of_model(make())))
    edit(config)
    return json.dumps(config)


def entry(config, number):
    return config["config"]["layers"][number]


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda c: entry(c, 1).update(class_name="Conv3D"), "layer 1: 'Conv3D' of 'keras.layers' is not supported"),
        (lambda c: entry(c, 1)["config"].update(groups=3), r"Conv2D\(groups=3\) is not supported by tinyconv"),
        (lambda c: entry(c, 1)["config"].update(trainable="no"), "Invalid trainable of Conv2D"),
        (lambda c: entry(c, 1)["config"].update(filters=10**12), "Layer 'conv2d': invalid filters"),
        (lambda c: entry(c, 1)["config"].update(filters=-1), "Expected a positive integer. Received: -1"),
        (lambda c: entry(c, 1)["config"].update(what=1), "Conv2D has no argument 'what'"),
        (lambda c: entry(c, 2)["config"].update(renorm=True), r"BatchNormalization\(renorm=True\) is not supported"),
        (lambda c: entry(c, 0)["config"].update(batch_shape=[0, 6, 6, 1]), r"Received: \[0, 6, 6, 1\]"),
        (lambda c: entry(c, 0)["config"].update(batch_shape=[None, 6, 6, 1 << 40]), "expected an input shape such as"),
        (lambda c: entry(c, 7).update(class_name="Lambda", config={"function": "x"}), "'Lambda' of 'keras.layers' is"),
        (lambda c: entry(c, 7).update(module="os", class_name="system"), "'system' of 'os' is not supported"),
        (lambda c: entry(c, 7).update(registered_name="My>Dense"), "'Dense' of 'keras.layers' is not supported"),
        (lambda c: c.update(class_name="Mine"), "models of the class 'Mine' are not supported"),
        (lambda c: c.update(class_name="Functional"), "layer 0 does not say what it is called on"),
        (lambda c: c["compile_config"]["optimizer"].update(class_name="Lion"), "optimizer: 'Lion' of"),
        (lambda c: c["compile_config"]["optimizer"]["config"].update(use_ema=True), r"Adam\(use_ema=True\) is not"),
        (lambda c: c["compile_config"].update(loss="hinge"), "Unknown loss: 'hinge'"),
        (lambda c: c["compile_config"]["loss"]["config"].update(axis=1), r"axis=1\) is not"),
        (lambda c: c["compile_config"].update(weighted_metrics=[2]), "weighted_metrics is damaged"),
        (lambda c: c["compile_config"].update(weighted_metrics="mse"), "expected a list of weighted_metrics"),
    ],
)
def test_what_is_not_supported_is_named(tmp_path, edit, message):
    archive_with(tmp_path / "m.keras", config_json=edited(edit))
    with pytest.raises(ValueError, match=message):
        load_model(tmp_path / "m.keras")


def test_an_archive_must_hold_its_three_members_once_and_uncompressed(tmp_path):
    path = tmp_path / "m.keras"
    path.write_bytes(b"PK nothing")
    with pytest.raises(ValueError, match=r"is not a complete .keras archive"):
        load_model(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", "{}")
    with pytest.raises(ValueError, match=r"Expected one member 'metadata.json'. Received: 0"):
        load_model(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("metadata.json", "0" * 10_000)
    with pytest.raises(ValueError, match=r"'metadata.json' is compressed, which Keras does not do"):
        load_model(path)


def test_nothing_but_the_three_members_is_read_and_nothing_is_extracted(tmp_path):
    path = tmp_path / "inside" / "m.keras"
    path.parent.mkdir()
    make().save(path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("../outside.txt", "gotcha")
        archive.writestr("/tmp/tinyconv-outside.txt", "gotcha")
    load_model(path, backend="reference")
    assert sorted(os.listdir(tmp_path)) == ["inside"]
    assert not os.path.exists("/tmp/tinyconv-outside.txt")


def test_checked_json_refuses_what_could_hurt():
    for text, message in (
        (b"[" * 100_000, "nested too deeply. Expected at most 40 levels"),
        (b'{"a": 1, "a": 2}', "a key occurs twice"),
        (b"[NaN]", "NaN is not a finite number"),
        (b"[1e999]", "1e999 is not a finite number"),
        (b"\xff\xfe", "is not valid JSON"),
        (b" " * (2 << 20), "is too large"),
        (b"1" * 5000, "is not valid JSON"),
        (b'"' + rb"\"" * 500_000, "is not valid JSON"),  # a string that never ends must not be searched for again
        (b'"' + b"\\" * 999_999, "is not valid JSON"),
    ):
        with pytest.raises(ValueError, match=message):
            checked_json.loads(text, "It")
    assert checked_json.loads(b'{"[[[[": ["\\"[", 1.5]}', "It") == {"[[[[": ['"[', 1.5]}


def test_without_h5py_reading_works_and_writing_says_what_to_install(tmp_path):
    make().save(tmp_path / "m.keras")
    code = f"""
import sys; sys.modules["h5py"] = None
import tinyconv
model = tinyconv.saving.load_model({str(tmp_path / "m.keras")!r}, backend="reference")
model.save_weights({str(tmp_path / "m.safetensors")!r})
model.save({str(tmp_path / "n.keras")!r})
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    last = result.stderr.strip().splitlines()[-1]
    assert last == "ImportError: Keras' formats are written with h5py: pip install 'tinyconv[save]'"
    assert sorted(os.listdir(tmp_path)) == ["m.keras", "m.safetensors"]


# Atomic writes


def test_a_failed_write_leaves_the_old_file_and_no_stray(tmp_path, monkeypatch):
    path = tmp_path / "m.safetensors"
    atomic.write(path, b"old")

    def full(handle):
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        atomic.write(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["m.safetensors"]


def test_strays_of_dead_writers_are_swept_and_those_in_use_are_not(tmp_path):
    path = tmp_path / "m[1].keras"
    dead = tmp_path / f".{path.name}.aaaa{atomic.SUFFIX}"
    busy = tmp_path / f".{path.name}.bbbb{atomic.SUFFIX}"
    other = tmp_path / f".other.keras.cccc{atomic.SUFFIX}"
    for stray in (dead, busy, other):
        stray.write_bytes(b"half")
    with open(busy, "rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        atomic.write(path, b"whole")
    assert sorted(os.listdir(tmp_path)) == sorted([path.name, busy.name, other.name])
    assert path.read_bytes() == b"whole"


def test_a_link_keeps_pointing_to_the_file_that_is_written(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "file")
    atomic.write(tmp_path / "link", b"through")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_bytes() == b"through"


def test_the_file_s_permissions_are_those_of_any_new_file(tmp_path):
    (tmp_path / "plain").write_bytes(b"")
    atomic.write(tmp_path / "m", b"")
    assert (tmp_path / "m").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"There is no file '.*m\.keras' to load"):
        load_model(tmp_path / "m.keras")
    (tmp_path / "folder.keras").mkdir()
    with pytest.raises(OSError, match=r"folder\.keras' is a (folder|device)|may not be read"):
        load_model(tmp_path / "folder.keras")
