"""The command line, and the reading of pictures."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

import tinyconv
from tinyconv import callbacks, layers
from tinyconv.__main__ import main, parser
from tinyconv.datasets import pictures

Image = pytest.importorskip("PIL.Image")

REFERENCE = ["--backend", "reference"]
SMALL = ["train", "--samples", "30", "--epochs", "2", "--batch-size", "15", "--seed", "1", *REFERENCE]


def run(capsys, *arguments):
    """The exit status, what was printed, and what was complained about."""
    status = main([str(argument) for argument in arguments])
    return status, *capsys.readouterr()


def test_python_m_tinyconv_says_what_it_can_do():
    result = subprocess.run([sys.executable, "-m", "tinyconv", "--help"], capture_output=True, text=True, check=True)
    for command in ("info", "warmup", "train", "predict", "bench"):
        assert f"\n    {command} " in result.stdout
    assert "tinyconv train --epochs 2" in " ".join(result.stdout.split())


@pytest.mark.parametrize("command", ["info", "warmup", "train", "predict", "bench"])
def test_every_option_is_explained(command):
    actions = parser()._subparsers._group_actions[0].choices[command]._actions
    assert all(action.help for action in actions)


def test_no_command_and_unknown_ones_are_usage_errors(capsys):
    for arguments in ([], ["fly"], ["train", "--epochs", "0"]):
        with pytest.raises(SystemExit) as end:
            main(arguments)
        assert end.value.code == 2
    assert "expected an integer of at least 1, received '0'" in capsys.readouterr().err


def test_version(capsys):
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"tinyconv {tinyconv.__version__}\n"


def test_info_says_what_it_runs_on(capsys):
    status, out, _ = run(capsys, "info", "--json")
    found = json.loads(out)
    assert status == 0
    assert found["tinyconv"] == tinyconv.__version__
    assert found["numpy"] == np.__version__
    assert found["lanes"] in (4, 8, 16)
    assert found["threads"] >= 1
    assert found["threading_layer"] in ("tbb", "omp", "workqueue")
    assert isinstance(found["gpu_usable"], bool)
    assert "threading layer" in run(capsys, "info")[1]


def test_train_writes_what_is_asked_for_and_predict_reads_it(capsys, tmp_path):
    pytest.importorskip("onnx")
    files = {name: tmp_path / f"m.{name}" for name in ("keras", "onnx", "json", "png")}
    wanted = ["--save", files["keras"], "--onnx", files["onnx"], "--history", files["json"], "--report", files["png"]]
    status, out, _ = run(capsys, *SMALL, *wanted)
    assert status == 0
    assert "Test accuracy:" in out
    assert sorted(os.listdir(tmp_path)) == sorted(path.name for path in files.values())
    assert len(json.loads(files["json"].read_text())["history"]["val_loss"]) == 2

    (_, _), (x, _) = tinyconv.datasets.mnist.load_data()
    for number in range(2):
        Image.fromarray(x[number]).save(tmp_path / f"{number}.png")
    status, out, _ = run(
        capsys, "predict", files["keras"], tmp_path / "0.png", tmp_path / "1.png", "--json", *REFERENCE
    )
    assert status == 0
    found = json.loads(out)["predictions"]
    assert [os.path.basename(each["image"]) for each in found] == ["0.png", "1.png"]
    model = tinyconv.saving.load_model(files["keras"], backend="reference")
    expected = model.predict(np.stack([pictures.read(tmp_path / f"{n}.png", (28, 28, 1)) for n in range(2)]))
    np.testing.assert_allclose([list(each["probabilities"].values()) for each in found], expected, atol=1e-6)
    assert [each["class"] for each in found] == [str(n) for n in expected.argmax(axis=1)]
    status, out, _ = run(
        capsys, "predict", files["keras"], tmp_path / "0.png", "--names", "a,b,c,d,e,f,g,h,i,j", *REFERENCE
    )
    assert out.startswith(f"{tmp_path / '0.png'}: {'abcdefghij'[expected[0].argmax()]} (")
    status, _, err = run(capsys, "predict", files["keras"], tmp_path / "0.png", "--names", "a,b", *REFERENCE)
    assert (status, err) == (1, "tinyconv predict: Expected 10 names, one for each output. Received: 2.\n")


def test_train_with_json_prints_json_and_nothing_else(capsys):
    status, out, _ = run(capsys, *SMALL, "--json")
    assert status == 0
    found = json.loads(out)
    assert set(found) == {"loss", "accuracy", "seconds", "history", "receipt"}
    assert run(capsys, *SMALL, "--json")[1].splitlines()[1] == out.splitlines()[1]  # the same seed, the same loss


def test_train_goes_on_from_a_backup(capsys, tmp_path, monkeypatch):
    whole = json.loads(run(capsys, *SMALL, "--json", "--backup", tmp_path / "a")[1])
    original = callbacks.BackupAndRestore.on_epoch_end

    def dying(self, epoch, logs=None):
        original(self, epoch, logs)
        raise KeyboardInterrupt

    monkeypatch.setattr(callbacks.BackupAndRestore, "on_epoch_end", dying)
    assert run(capsys, *SMALL, "--json", "--backup", tmp_path / "b")[0] == 130
    monkeypatch.setattr(callbacks.BackupAndRestore, "on_epoch_end", original)
    resumed = json.loads(run(capsys, *SMALL, "--json", "--backup", tmp_path / "b")[1])
    assert {**resumed, "seconds": 0} == {**whole, "seconds": 0}


def test_mistakes_are_one_line_without_a_traceback(capsys, tmp_path):
    for arguments, message in (
        ([*SMALL, "--save", "m.h5"], "tinyconv train: Unknown kind of file. Expected a name that ends in .keras."),
        ([*SMALL, "--onnx", tmp_path / "no" / "m.onnx"], "tinyconv train: There is no folder"),
        (["predict", tmp_path / "no.keras", "x.png"], "tinyconv predict: There is no file"),
    ):
        status, out, err = run(capsys, *arguments)
        assert status == 1
        assert err.startswith(message)
        assert err.count("\n") == 1
        assert not out


@pytest.mark.parametrize("command", [["bench", "--seconds", "0.01", "--batch-size", "2"], ["warmup"]])
@pytest.mark.long
def test_warmup_and_bench_on_the_cpu_kernels(capsys, command):
    status, out, _ = run(capsys, *command, "--json")
    assert status == 0
    found = json.loads(out)
    if command == ["warmup"]:
        assert found["backend"] == "cpu"
        assert json.loads(run(capsys, *command, "--json")[1])["functions"] == 0  # they are compiled now
    else:
        assert set(found["backends"]) >= {"reference", "cpu"}
        assert all(each["images_per_second"] > 0 for each in found["backends"].values())


# Pictures


def test_mnist_s_own_images_stay_almost_what_they_are(tmp_path):
    """They are centred and scaled already: at most moved by a pixel, and stretched by one in twenty."""
    (_, _), (x, _) = tinyconv.datasets.mnist.load_data()
    same = 0
    for number in range(50):
        path = tmp_path / f"{number}.png"
        Image.fromarray(x[number]).save(path)
        found, original = pictures.read(path, (28, 28, 1))[..., 0], x[number] / np.float32(255)
        moved = [np.roll(original, shift, (0, 1)) for shift in ((a, b) for a in (-1, 0, 1) for b in (-1, 0, 1))]
        likeness = max(np.corrcoef(found.ravel(), each.ravel())[0, 1] for each in moved)
        assert likeness > 0.85
        same += likeness > 0.999
    assert same > 25


def drawing(bright, size=(120, 90), stroke=(60, 30, 14, 50)):
    """A bar of ink on paper, off centre: its left and top, width and height."""
    paper, ink = (20, 240) if bright else (235, 10)
    image = np.full(size, paper, np.uint8)
    left, top, width, height = stroke
    image[top : top + height, left : left + width] = ink
    return image


@pytest.mark.parametrize("bright", [True, False])
@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_a_drawing_is_scaled_centred_and_made_bright_on_black(tmp_path, bright, suffix):
    Image.fromarray(drawing(bright)).save(tmp_path / f"a.{suffix}", quality=95)
    found = pictures.read(tmp_path / f"a.{suffix}", (28, 28, 1))[..., 0]
    assert found.dtype == np.float32
    assert found.max() == 1
    inked = np.argwhere(found > 0.5)
    assert (inked.max(axis=0) - inked.min(axis=0) + 1).tolist() == pytest.approx([20, 6], abs=1)
    middle = (np.argwhere(found > 0) * found[found > 0][:, None]).sum(axis=0) / found.sum()
    np.testing.assert_allclose(middle, 13.5, atol=0.6)
    assert found[0, 0] == 0


def test_transparent_and_empty_images(tmp_path):
    rgba = np.zeros((40, 40, 4), np.uint8)
    rgba[10:30, 15:25] = (0, 0, 0, 255)  # black ink on nothing
    Image.fromarray(rgba).save(tmp_path / "a.png")
    found = pictures.read(tmp_path / "a.png", (28, 28, 1))
    assert found[14, 14, 0] == 1
    assert found[14, 2, 0] == 0
    Image.new("L", (9, 9), 255).save(tmp_path / "b.png")
    assert not pictures.read(tmp_path / "b.png", (28, 28, 1)).any()


def test_colour_models_get_the_picture_as_it_is(tmp_path):
    rgb = np.zeros((10, 20, 3), np.uint8)
    rgb[:, :10, 0], rgb[:, 10:, 2] = 255, 255
    Image.fromarray(rgb).save(tmp_path / "a.png")
    found = pictures.read(tmp_path / "a.png", (32, 32, 3))
    assert found.shape == (32, 32, 3)
    np.testing.assert_array_equal(found[5, 2], [1, 0, 0])
    np.testing.assert_array_equal(found[5, 30], [0, 0, 1])


def test_what_is_no_image_is_named(tmp_path):
    text, cut, icon, whole = (tmp_path / name for name in ("a.png", "b.png", "c.ppm", "d.png"))
    text.write_text("hello")
    Image.new("L", (64, 64)).save(cut)
    cut.write_bytes(cut.read_bytes()[:60])
    Image.new("L", (8, 8)).save(icon)
    Image.new("L", (8, 8)).save(whole)
    for path, message in (
        (text, "is not an image. Expected a PNG, JPEG, WebP, BMP, GIF or TIFF file."),
        (icon, "is not an image. Expected a PNG, JPEG, WebP, BMP, GIF or TIFF file."),
        (cut, "is damaged"),
    ):
        with pytest.raises(ValueError, match=message):
            pictures.read(path, (28, 28, 1))
    with pytest.raises(ValueError, match=r"samples of shape \(5,\). Expected \(height, width, 1 or 3\)"):
        pictures.read(whole, (5,))


def test_a_picture_of_too_many_pixels_is_refused(tmp_path, monkeypatch):
    """Before it is decoded: what follows its header here is nothing."""
    Image.new("1", (4000, 3000)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"too many pixels. Expected at most 10,000,000. Received: 4,000 x 3,000"):
        pictures.read(tmp_path / "a.png", (28, 28, 1))
    monkeypatch.setattr(pictures, "MOST_PIXELS", 300)
    Image.fromarray(drawing(False)).save(tmp_path / "a.jpg")  # of a JPEG, an eighth of each side
    assert pictures.read(tmp_path / "a.jpg", (28, 28, 1)).max() == 1


MODES = ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "I", "I;16", "F"]


@pytest.mark.parametrize("suffix", ["png", "webp", "bmp", "gif", "tiff", "jpg"])
@pytest.mark.parametrize("mode", MODES)
def test_every_mode_gives_the_pixels_of_its_8_bit_rendering(tmp_path, mode, suffix):
    grey = Image.fromarray(drawing(False))
    if mode in ("I", "I;16"):
        if suffix not in ("png", "tiff"):
            pytest.skip("has no 16 bits")
        image = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
        image = image.convert("I") if mode == "I" else image
    else:
        image = grey.convert("RGB" if mode in ("PA", "LAB", "HSV") else "L").convert(mode)
    path, plain = tmp_path / f"a.{suffix}", tmp_path / "plain.png"
    try:
        image.save(path)
    except (OSError, KeyError, ValueError):
        pytest.skip("the format has not this mode")
    with Image.open(path) as file:
        (grey if file.mode.startswith(("I", "F")) else file.convert("RGB")).save(plain)
    for shape in ((28, 28, 1), (28, 28, 3)):
        np.testing.assert_allclose(pictures.read(path, shape), pictures.read(plain, shape), atol=0.01)


@pytest.mark.parametrize("colour", ["white", "black", "red", "yellow"])
def test_ink_of_any_colour_on_a_transparent_ground(tmp_path, colour):
    image = Image.new("RGBA", (90, 120), (0, 0, 0, 0))
    image.paste(colour, (60, 30, 74, 80))
    image.save(tmp_path / "a.png")
    found = pictures.read(tmp_path / "a.png", (28, 28, 1))[..., 0]
    assert (found > 0.5).sum() == pytest.approx(20 * 6, abs=20)


@pytest.mark.parametrize("paper", [0, 110, 140, 255])
@pytest.mark.parametrize("ink", [0, 110, 140, 255])
def test_ink_is_what_differs_from_the_border(tmp_path, paper, ink):
    if abs(paper - ink) < 80:
        pytest.skip("too alike")
    array = np.full((120, 90), paper, np.uint8)
    array[30:80, 60:74] = ink
    Image.fromarray(array).save(tmp_path / "a.png")
    assert (pictures.read(tmp_path / "a.png", (28, 28, 1)) > 0.5).sum() == pytest.approx(20 * 6, abs=20)


def test_doubtful_pictures_are_read_with_a_warning(tmp_path):
    (_, _), (x, _) = tinyconv.datasets.mnist.load_data()
    pale = np.full((40, 40), 200, np.uint8)
    pale[10:30, 15:25] = 180
    for array, warning in (
        (np.full((9, 9), 255, np.uint8), "is blank"),
        (pale, "has little contrast: 8%"),
        (np.concatenate([x[0], x[1]], axis=1), "seems to hold 2 digits"),
    ):
        Image.fromarray(array).save(tmp_path / "a.png")
        with pytest.warns(UserWarning, match=warning):
            pictures.read(tmp_path / "a.png", (28, 28, 1))


@pytest.mark.parametrize("shape", [(28, 28), (784,)])
def test_samples_without_a_channel_axis(tmp_path, shape):
    Image.fromarray(drawing(False)).save(tmp_path / "a.png")
    found = pictures.read(tmp_path / "a.png", shape)
    np.testing.assert_array_equal(found, pictures.read(tmp_path / "a.png", (28, 28, 1)).reshape(shape))


# What outputs mean


@pytest.mark.parametrize(
    ("units", "activation", "loss", "outputs", "expected"),
    [
        (1, "sigmoid", "binary_crossentropy", [-3.0], {"0": 0.952574, "1": 0.047426}),
        (1, None, tinyconv.losses.BinaryCrossentropy(from_logits=True), [3.0], {"0": 0.047426, "1": 0.952574}),
        (
            2,
            None,
            tinyconv.losses.SparseCategoricalCrossentropy(from_logits=True),
            [2, 13],
            {"0": 0.000017, "1": 0.999983},
        ),
        (2, "sigmoid", "binary_crossentropy", [3.0, 3.0], {"0": 0.952574, "1": 0.952574}),
        (2, None, "mse", [7.5, -2.0], None),
    ],
)
def test_predict_knows_what_outputs_mean(capsys, tmp_path, units, activation, loss, outputs, expected):
    model = tinyconv.Sequential(
        [tinyconv.Input((28, 28, 1)), layers.Flatten(), layers.Dense(units, activation=activation)]
    )
    model.compile("adam", loss, backend="reference")
    model.set_weights([np.zeros((784, units)), np.array(outputs)])
    model.save(tmp_path / "m.keras")
    Image.fromarray(drawing(False)).save(tmp_path / "a.png")
    status, out, _ = run(capsys, "predict", tmp_path / "m.keras", tmp_path / "a.png", "--json", *REFERENCE)
    assert status == 0
    (found,) = json.loads(out)["predictions"]
    if expected is None:
        assert found["values"] == {"0": 7.5, "1": -2.0}
    else:
        assert found["probabilities"] == pytest.approx(expected, abs=1e-5)
        assert found["probability"] == max(found["probabilities"].values())


# What a run needs at its end


def test_outputs_are_checked_before_the_data_are_read(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(tinyconv.datasets.mnist, "load_data", lambda: pytest.fail("too late"))
    (tmp_path / "folder.keras").mkdir()
    (tmp_path / "file").touch()
    for arguments, message in (
        (["--save", tmp_path / "folder.keras"], "folder"),
        (["--report", tmp_path / "a.mp3"], "Unknown kind of file"),
        (["--history", tmp_path / "none" / "a.json"], "There is no folder"),
        (["--backup", tmp_path / "file"], "file"),
    ):
        status, out, err = run(capsys, *SMALL, *arguments)
        assert (status, out) == (1, "")
        assert message in err
    monkeypatch.setitem(sys.modules, "h5py", None)
    assert "pip install 'tinyconv[save]'" in run(capsys, *SMALL, "--save", tmp_path / "m.keras")[2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["bench", "--seconds", "nan"], "expected a number of seconds above 0 and up to 3600, received 'nan'"),
        (["bench", "--seconds", "-1"], "received '-1'"),
        (["train", "--seed", "-1"], "expected an integer from 0 to 4294967295, received '-1'"),
        (["train", "--epochs", "0"], "expected an integer of at least 1, received '0'"),
        (["trian"], "Did you mean 'train'?"),
        (["train", "--epohcs", "3"], "Did you mean '--epochs'?"),
    ],
)
def test_wrong_command_lines_say_what_is_possible(capsys, arguments, message):
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("steps", [0, 1])
def test_ctrl_c_keeps_what_was_learned(capsys, tmp_path, monkeypatch, steps):
    original = tinyconv.Sequential.fit

    def interrupted(self, *arguments, **options):
        if steps:
            original(self, *arguments, **options)
        raise KeyboardInterrupt

    monkeypatch.setattr(tinyconv.Sequential, "fit", interrupted)
    status, out, err = run(capsys, *SMALL, "--save", tmp_path / "m.keras")
    assert status == 130
    assert ("Test accuracy:" in out) == (tmp_path / "m.keras").exists() == bool(steps)
    assert ("Stopped before the first step: nothing to evaluate." in err) != bool(steps)


def test_without_pillow_the_message_says_what_to_install(tmp_path):
    read = "from tinyconv.datasets import pictures\npictures.read('a.png', (28, 28, 1))"
    code = f"import sys; sys.modules['PIL'] = None\n{read}"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    last = result.stderr.strip().splitlines()[-1]
    assert last == "ImportError: Reading images needs Pillow: pip install 'tinyconv[images]'"
