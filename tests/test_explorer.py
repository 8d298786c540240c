"""The explorer's server: what it answers, and that nothing a client sends can break it."""

import base64
import json
import os
import random
import signal
import socket
import struct
import subprocess
import sys
import time
import urllib.error
import urllib.request

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinyconv
from tests.strategies import examples, few
from tinyconv import layers
from tinyconv.__main__ import main
from tinyconv.inspect.explorer import Explorer
from tinyconv.inspect.explorer.learner import next_moment
from tinyconv.inspect.explorer.warp import warped


def digits(**compiled):
    tinyconv.utils.set_random_seed(3)
    model = tinyconv.Sequential(
        [
            tinyconv.Input((12, 12, 1)),
            layers.Conv2D(3, 3, activation="relu"),
            layers.MaxPooling2D(2),
            layers.BatchNormalization(),
            layers.Flatten(),
            layers.Dropout(0.5),
            layers.Dense(4, activation="softmax"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy", backend="reference", **compiled)
    return model


def samples(count=40):
    rng = np.random.default_rng(0)
    return rng.random((count, 12, 12, 1), np.float32), rng.integers(0, 4, count)


@pytest.fixture(scope="module")
def explorer():
    running = Explorer(digits(), *samples(), ["a", "b", "c", "<d>"])
    running._samples.wait()  # it has read the samples
    yield running
    running.close()


def ask(explorer, name, headers=(), **body):
    """The status and the answer, parsed if it is JSON."""
    request = urllib.request.Request(explorer.address + f"api/{name}", json.dumps(body).encode(), dict(headers))
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            status, kind, found = answer.status, answer.headers["Content-Type"], answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    return status, json.loads(found) if kind == "application/json" else found


def look(explorer, **body):
    status, found = ask(explorer, "look", **body)
    assert status == 200, found
    size = struct.unpack("<I", found[:4])[0]
    return json.loads(found[4 : 4 + size]), np.frombuffer(found[4 + size :], np.float32)


def test_a_look_is_the_trace(explorer):
    """Every array of it, bit for bit, of a batch whose first sample is the picture."""
    header, data = look(explorer, index=7)
    x, y = samples()
    batch = np.concatenate([x[7:8], x[:31]]), np.concatenate([y[7:8], y[:31]])
    trace = digits().trace(*batch)
    names = [column["name"] for column in ask(explorer, "model")[1]["columns"]]
    assert names == [name for name in trace if name != "loss"]
    for name, bands in zip(names, header["columns"], strict=True):
        for band, entry in bands.items():
            found = data[entry["at"] : entry["at"] + int(np.prod(entry["shape"]))].reshape(entry["shape"])
            weight = trace[name].weights.get(entry["what"].removeprefix("step/"))
            if weight is not None:
                expected = weight.step if band.startswith("step") else weight.value
            else:
                expected = getattr(trace[name], entry["what"])[0]
            np.testing.assert_array_equal(found, expected, err_msg=f"{name}, {band}")
    assert header["loss"]["value"] == trace.loss
    assert header["columns"][-1]["gradient"]["what"] == "dz"  # the loss starts from the scores


def test_explanations_and_measurements_are_the_librarys(explorer):
    header, _ = look(explorer, index=2)
    for layer, what, place in (("conv2d", "output", [3, 4, 1]), ("conv2d", "doutput", [3, 4, 1]), ("dense", "z", [2])):
        status, found = ask(explorer, "explain", look=header["look"], layer=layer, what=what, place=place)
        assert status == 200
        products = found.get("products", {"values": [term["value"] for term in found["terms"]]})["values"]
        assert sum(products) + sum(each["value"] for each in found.get("others", [])) == pytest.approx(found["sum"])
        assert found["mathml"].startswith("<math")
    status, found = ask(explorer, "measure", look=header["look"], layer="flatten", what="doutput", place=[9])
    assert found["verdict"] in ("agrees", "kink")
    assert ask(explorer, "explain", look=header["look"], layer="loss", what="losses", place=[])[1]["layer"] == "loss"
    assert ask(explorer, "explain", look=header["look"], layer="dense", what="step/bias", place=[1])[0] == 200


def test_lists_begin_with_the_worst_mistake(explorer):
    _, found = ask(explorer, "samples", list="worst", count=40)
    x, y = samples()
    probs = digits().predict(x, verbose=0)
    margin = probs.max(axis=1) - probs[np.arange(40), y]
    assert [item["index"] for item in found["items"]] == [
        i for i in np.argsort(-margin, kind="stable") if margin[i] > 0
    ]
    assert found["accuracy"] == pytest.approx((probs.argmax(axis=1) == y).mean())
    assert all(item["truth"] != item["answer"] for item in found["items"])
    assert found["pictures"][0]["shape"] == [12, 12, 1]


def test_a_drawing_is_taken_for_what_it_is_read_as(explorer):
    pixels = base64.b64encode(bytes(range(144))).decode()
    header, data = look(explorer, pixels=pixels)
    assert header["assumed"]
    assert header["truth"] == header["answer"]
    low, high = samples()[0].min(), samples()[0].max()
    np.testing.assert_allclose(data[:144], low + np.arange(144) / 255 * (high - low), rtol=1e-6)
    header, _ = look(explorer, pixels=pixels, truth=3)
    assert (header["truth"], header["assumed"]) == (3, False)


def test_sliders_move_the_picture():
    x = np.zeros((9, 9, 1), np.float32)
    x[4, 2] = 1
    for how, place in (
        ((2, 0, 0, 0), (4, 4)),
        ((0, -3, 0, 0), (1, 2)),
        ((0, 0, 90, 0), (2, 4)),
        ((0, 0, 180, 0), (4, 6)),
    ):
        found = warped(x, *how)
        assert np.unravel_index(found.argmax(), (9, 9)) == place, how
        assert found.sum() == pytest.approx(1, abs=1e-5)
    assert warped(x, 0.5, 0, 0, 0)[4, 2:4, 0].tolist() == [0.5, 0.5]
    blurred = warped(x, 2, 0, 0, 0.7)
    assert blurred.sum() == pytest.approx(1, abs=0.01)
    np.testing.assert_allclose(blurred[..., 0], blurred[..., 0].T, atol=1e-7)
    np.testing.assert_array_equal(warped(x - 1, 0, 0, 0, 0), x - 1)


def test_models_without_loss_or_data_have_a_forward_pass():
    model = tinyconv.Sequential([tinyconv.Input((6, 6, 3)), layers.Conv2D(2, 3), layers.Flatten(), layers.Dense(2)])
    running = Explorer(model)
    try:
        header, _ = look(running)
        assert header["loss"] is header["truth"] is None
        assert set(header["columns"][1]) == {"value", "weight/kernel", "weight/bias"}
        assert ask(running, "samples", list="test", count=5)[1]["total"] == 0
        assert ask(running, "measure", look=1, layer="conv2d", what="doutput", place=[0, 0, 0])[0] == 400
    finally:
        running.close()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.zeros((3, 5)),), r"x: expected samples of shape \(12, 12, 1\)"),
        ((np.zeros((0, 12, 12, 1)),), "at least one"),
        ((None, [1, 2]), "y without x"),
        ((np.zeros((3, 144)), [1, 2]), "Received: 3 and 2"),
        ((np.zeros((3, 144)), [1, 2, 0], ["a"]), "expected 4 names. Received: 1"),
    ],
)
def test_what_does_not_fit_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        digits().explore(*arguments, open_browser=False)


def test_explore_changes_nothing_and_is_a_page_in_a_notebook():
    model = digits()
    before = [weight.copy() for weight in model.get_weights()]
    running = model.explore(*samples(), open_browser=False, block=False)
    look(running, index=0)
    running.close()
    for now, then in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(now, then)
    assert f'<iframe src="{running.address}"' in running._repr_html_()


# Guarded


def test_only_its_own_page_is_answered(explorer):
    port = explorer._server.port
    assert explorer._server.server_address[0] == "127.0.0.1"
    assert ask(explorer, "model", {"Origin": f"http://localhost:{port}"})[0] == 200
    for headers in ({"Host": "evil.example"}, {"Host": f"127.0.0.1:{port + 1}"}, {"Origin": "http://evil.example"}):
        assert ask(explorer, "model", headers)[0] == 403
    assert ask(explorer, "model", {"Origin": "null"})[0] == 403
    for path in ("", "wrong/", f"{explorer._server.token}x/", explorer._server.token):
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=120)


def test_pages_are_served_by_exact_name(explorer):
    with urllib.request.urlopen(explorer.address, timeout=120) as page:
        assert b"<!doctype html>" in page.read()
        assert "default-src 'none'" in page.headers["Content-Security-Policy"]
        assert page.headers["Referrer-Policy"] == "no-referrer"
    for name in ("../server.py", "%2e%2e/server.py", "page/app.js", "app.js/", "app.js?x", "index.html", "//app.js"):
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(explorer.address + name, timeout=120)
    assert sum(len(body) for _, body in explorer._server.files.values()) < 1_000_000


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4),
)
QUESTIONS = ("model", "samples", "look", "explain", "measure", "maps")
ENTRIES = (
    "list",
    "from",
    "count",
    "index",
    "pixels",
    "truth",
    "across",
    "turn",
    "blur",
    "look",
    "layer",
    "what",
    "place",
)
LIKELY = st.sampled_from(
    ["worst", "test", "conv2d", "dense", "loss", "output", "doutput", "step/kernel", 1, 0, [0, 0, 0]]
)


@given(st.sampled_from(QUESTIONS), st.dictionaries(st.sampled_from(ENTRIES), LIKELY | ANYTHING, max_size=6))
@examples(60)
def test_questions_of_any_kind_are_answered_or_refused(explorer, name, body):
    status, _ = ask(explorer, name, **body)
    assert status == 200 or 400 <= status < 500


def test_bytes_of_any_kind_are_refused(explorer, capfd):
    """On the wire: broken request lines, headers, lengths and bodies; and clients that go away."""
    rng, token, port = random.Random(0), explorer._server.token, explorer._server.port
    host = f"Host: 127.0.0.1:{port}\r\n"
    post = f"POST /{token}/api/look HTTP/1.1\r\n{host}"
    broken = [
        b"",
        b"\r\n\r\n",
        b"GET\r\n\r\n",
        b"G" * 70000 + b"\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + rng.randbytes(64),
        f"GET /{token}/ HTTP/9.9\r\n{host}\r\n".encode(),
        f"GET /{token}/\r\n\r\n".encode(),
        f"BREW /{token}/ HTTP/1.1\r\n{host}\r\n".encode(),
        f"HEAD /{token}/ HTTP/1.1\r\n{host}\r\n".encode(),
        f"GET /{token}/ HTTP/1.1\r\n{host}{host}\r\n".encode(),
        f"GET /{token}/ HTTP/1.1\r\n\r\n".encode(),
        f"GET /\xff\xfe{token}/ HTTP/1.1\r\n{host}\r\n".encode("latin-1"),
        f"{post}{'X: y' * 30000}\r\n\r\n".encode(),
        (post + "".join(f"X{n}: y\r\n" for n in range(200)) + "\r\n").encode(),
        f"{post}\r\n".encode(),
        f"{post}Content-Length: -5\r\n\r\n".encode(),
        f"{post}Content-Length: 99999999999999\r\n\r\n".encode(),
        f"{post}Content-Length: 9000000\r\n\r\n".encode(),
        f"{post}Content-Length: 1e3\r\n\r\n".encode(),
        f"{post}Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n".encode(),
        f"{post}Content-Length: 5\r\n\r\n[1,2]".encode(),
        f"{post}Content-Length: 3\r\n\r\n\xff\xfe\xfd".encode("latin-1"),
        f"{post}Content-Length: 40000\r\n\r\n{'[' * 40000}".encode(),
        f"{post}Content-Length: 500\r\n\r\nshort".encode(),
    ]
    broken += [rng.randbytes(rng.randrange(1, 400)) for _ in range(20)]
    for bytes_ in broken:
        with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
            answer = b""
            try:
                client.sendall(bytes_)
                client.shutdown(socket.SHUT_WR)
                while part := client.recv(65536):
                    answer += part
            except OSError:
                continue  # it was refused before it had said all
        assert not answer or answer.split()[1][:1] == b"4" or b"200" not in answer.split(b"\r\n")[0], bytes_[:60]
    assert ask(explorer, "model")[0] == 200
    assert capfd.readouterr().err == ""


def test_too_many_connections_are_turned_away(explorer):
    port = explorer._server.port
    held = [socket.create_connection(("127.0.0.1", port), timeout=60) for _ in range(60)]
    for client in held:
        client.close()
    for _ in range(50):
        try:
            assert ask(explorer, "model")[0] == 200
            break
        except (urllib.error.URLError, ConnectionError):
            continue
    else:
        raise AssertionError("It no longer answers.")


# From the shell


def test_the_command_prints_its_address_alone_and_ends_with_ctrl_c(tmp_path):
    model = tinyconv.Sequential([tinyconv.Input((28, 28, 1)), layers.Flatten(), layers.Dense(10, activation="softmax")])
    model.compile("sgd", "sparse_categorical_crossentropy", backend="reference")
    model.save(tmp_path / "m.keras")
    command = [sys.executable, "-m", "tinyconv", "explore", str(tmp_path / "m.keras"), "--no-browser"]
    environment = os.environ | {"TINYCONV_BACKEND": "reference"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    run = subprocess.Popen(command, env=environment, **pipes)
    try:
        address = run.stdout.readline().strip()
        with urllib.request.urlopen(address, timeout=120) as page:
            assert page.status == 200
        run.send_signal(signal.SIGINT)
        out, err = run.communicate(timeout=120)
    finally:
        run.kill()
    assert (out.strip(), err, run.returncode) == ("", "", 0)


# Training


def progress(explorer, condition):
    """What training says once a condition holds."""
    for _ in range(6000):
        status, found = ask(explorer, "progress", since=0)
        assert status == 200
        assert found["error"] == ""
        if condition(found):
            return found
        time.sleep(0.02)
    raise AssertionError(found)


@pytest.fixture
def learner():
    running = Explorer(digits(), *samples(), train_data=samples(64))
    yield running
    running.close()


def test_training_goes_by_steps_and_keeps_its_moments(learner):
    assert ask(learner, "model")[1]["trains"]
    for step in (1, 2, 3):
        assert ask(learner, "train", action="step", batch=16)[0] == 200
        progress(learner, lambda found, step=step: found["step"] == step and not found["running"])
    found = progress(learner, lambda found: found["moments"][-1] == 3)
    assert found["moments"] == [0, 1, 2, 3]
    assert [point[0] for point in found["points"]] == [1, 2, 3]
    assert (found["batch"], found["epoch"]) == (16, 4)
    model, steps = digits(metrics=["accuracy"]), []

    class Means(tinyconv.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            steps.append([logs[name] * (batch + 1) for name in ("loss", "accuracy")])
            self.model.stop_training = batch == 2

    model.fit(*samples(64), batch_size=16, verbose=0, callbacks=[Means()])  # the same weights, bit for bit
    for step, means in enumerate(np.diff([[0, 0], *steps], axis=0)):
        assert found["points"][step] == [step + 1, *map(pytest.approx, means)]
    assert found["unseen"][3][1] == pytest.approx(model.test_on_batch(*samples())[0])
    header, data = look(learner, index=0, training=True, backward=False)
    np.testing.assert_array_equal(data[-model.get_weights()[-1].size :], model.get_weights()[-1])  # dense/bias
    then, _ = look(learner, index=0, training=True, backward=False, moment=1)
    assert (header["moment"], then["moment"], then["loss"]) == (None, 1, None)
    assert ask(learner, "look", index=0, training=True, moment=77)[0] == 400
    status, film = ask(learner, "film", weight="conv2d/kernel", map=2, slice=0)
    assert status == 200
    frames = np.frombuffer(film, np.float32).reshape(4, 3, 3)
    np.testing.assert_array_equal(frames[0], digits().get_weights()[0][:, :, 0, 2])
    np.testing.assert_array_equal(frames[3], model.get_weights()[0][:, :, 0, 2])


def test_settings_count_from_the_next_step_on_and_over_begins_again(learner):
    ask(learner, "train", action="start")
    progress(learner, lambda found: found["step"] > 5)
    ask(learner, "train", action="set", rate=0.5, batch=8, optimizer="sgd")
    found = progress(learner, lambda found: found["optimizer"] == "sgd" and found["batch"] == 8)
    assert found["running"]
    assert learner._learner.model.optimizer.learning_rate == 0.5
    ask(learner, "train", action="pause")
    step = progress(learner, lambda found: not found["running"])["step"]
    before = ask(learner, "model")[1]["step"]
    assert ask(learner, "adopt")[1]["step"] != before  # what is looked at is now what was trained
    assert step <= ask(learner, "progress", since=0)[1]["step"] <= step + 1
    ask(learner, "train", action="over")
    found = progress(learner, lambda found: found["step"] == 0 and found["moments"] == [0])
    assert found["points"] == []
    assert ask(learner, "train", action="fly")[0] == ask(learner, "train", action="start", rate=-1)[0] == 400
    assert not any((weight == 0.5).any() for weight in digits().get_weights())


def test_moments_grow_apart_and_stay_few():
    steps = [0]
    while steps[-1] < 3000:
        steps.append(next_moment(steps[-1]))
    assert steps[:8] == [0, 1, 2, 4, 7, 11, 16, 23]
    assert len(steps) < 30


# Mistakes


def small_network():
    tinyconv.utils.set_random_seed(2)
    model = tinyconv.Sequential(
        [
            tinyconv.Input((12, 12, 1)),
            layers.Conv2D(3, 3, activation="relu"),
            layers.Conv2D(3, 3, activation="relu"),
            layers.MaxPooling2D(2),
            layers.Flatten(),
            layers.Dropout(0.5),
            layers.Dense(4, activation="softmax"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy", backend="reference")
    return model


@pytest.fixture(scope="module")
def breaker():
    running = Explorer(small_network(), *samples(200))
    yield running
    running.close()


NAMED = {  # by the check: the first tensor that is wrong, coming back from the loss; None: it cannot see the mistake
    "none": None,
    "turn": "conv2d",
    "pool": "conv2d_1",
    "mask": "conv2d_1",
    "mean": "dense",
    "scale": "max_pooling2d",
    "shift": "conv2d",
    "bias": "dense",
    "nocorr": None,
    "rate": None,
    "sorted": None,
}


@pytest.mark.parametrize("name", few([name for name in NAMED if name != "none"], 3))
def test_the_check_names_the_tensor(breaker, name):
    breaker._breaker.steps = 3  # the runs are another matter
    assert ask(breaker, "break", mistake=name, index=5)[0] == 200
    for _ in range(1000):
        known = {each["id"]: each for each in ask(breaker, "broken")[1]["mistakes"]}
        if known[name]["state"] == "done":
            break
        time.sleep(0.02)
    found = known[name]
    assert found["error"] == ""
    wrong = [row["layer"] for row in found["rows"] if row["wrong"]]
    if name == "bias":
        assert sorted({*wrong}) == ["conv2d", "conv2d_1", "dense"]
        assert {row["what"] for row in found["rows"] if row["wrong"]} == {"dbias"}
    else:
        assert (wrong[0] if wrong else None) == NAMED[name]
    assert len(found["losses"]) == 3
    assert 0 <= found["accuracy"] <= 1
    if found["line"]:
        assert found["line"]["right"] != found["line"]["wrong"]


def test_mistakes_are_made_on_copies(breaker):
    model, x, y = small_network(), *samples(200)
    trace = model.trace(x[:8], y[:8])
    header, data = look(breaker, index=0, mistake="mean")
    entry = header["columns"][-1]["gradient"]
    found = data[entry["at"] : entry["at"] + 4]
    own = model.trace(np.concatenate([x[:1], x[:7]]), np.concatenate([y[:1], y[:7]]))["dense"].dz[0]
    np.testing.assert_allclose(found, 8 * own, rtol=1e-5)
    again = small_network().trace(x[:8], y[:8])  # neither the model nor the reference has changed
    np.testing.assert_array_equal(trace["dense"].dz, again["dense"].dz)
    assert trace.check(1).ok


def test_mistakes_that_cannot_be_made_are_refused():
    dense = tinyconv.Sequential([tinyconv.Input((144,)), layers.Dense(4, activation="softmax")])
    dense.compile("sgd", "sparse_categorical_crossentropy", backend="reference")
    running = Explorer(dense, *samples())
    try:
        known = {each["id"]: each["applies"] for each in ask(running, "broken")[1]["mistakes"]}
        assert [name for name, applies in known.items() if applies] == ["none", "mean", "bias", "rate", "sorted"]
        status, text = ask(running, "break", mistake="turn", index=0)
        assert (status, text) == (400, "This model has nothing that the mistake could be made in.")
    finally:
        running.close()


def test_the_command_writes_a_file_and_ends(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("TINYCONV_BACKEND", "reference")
    model = tinyconv.Sequential([tinyconv.Input((28, 28, 1)), layers.Flatten(), layers.Dense(10, activation="softmax")])
    model.compile("sgd", "sparse_categorical_crossentropy", backend="reference")
    model.save(tmp_path / "m.keras")
    assert main(["explore", str(tmp_path / "m.keras"), "--html", str(tmp_path / "out.html"), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said == {"file": str(tmp_path / "out.html"), "bytes": (tmp_path / "out.html").stat().st_size}
    assert main(["explore", str(tmp_path / "m.keras"), "--html", str(tmp_path / "no" / "out.html")]) == 1
    assert "no" in capsys.readouterr().err


def test_models_of_several_inputs_and_outputs_are_seen_and_trained():
    a, b = tinyconv.Input((6, 6, 1), name="a"), tinyconv.Input((3,), name="b")
    x = layers.Concatenate()([layers.Flatten()(layers.Conv2D(2, 3)(a)), b])
    model = tinyconv.Model([a, b], [layers.Dense(2, name="p")(x), layers.Dense(1, name="q")(x)])
    model.compile("sgd", "mean_squared_error", loss_weights=[1.0, 0.5], backend="reference")
    rng = np.random.default_rng(0)
    x, y = {"a": rng.random((9, 36)), "b": rng.random((9, 3))}, [rng.random((9, 2)), rng.random((9, 1))]
    running = Explorer(model, x, y, train_data=(x, y))
    try:
        header, data = look(running, index=4)
        inputs = [x["a"].reshape(9, 6, 6, 1).astype(np.float32), x["b"].astype(np.float32)]
        trace = model.trace([each[4:5] for each in inputs], [each[4:5] for each in y])
        assert header["loss"]["value"] == pytest.approx(trace.loss)
        np.testing.assert_array_equal(data[:36], inputs[0][4].reshape(-1))
        status, found = ask(running, "explain", look=header["look"])
        assert (status, found["count"]) == (200, 2)
        assert found["sum"] == pytest.approx(trace.loss)
        assert ask(running, "train", action="step", batch=4)[0] == 200
        progress(running, lambda found: found["step"] == 1 and not found["running"])
        assert ask(running, "break", mistake="bias", index=0)[0] == 200
    finally:
        running.close()
    with pytest.raises(ValueError, match="x\\['a'\\] and x\\['b'\\] differ in length"):
        model.explore([x["a"], x["b"][:3]], open_browser=False)
