"""Processes killed at any moment: no file is ever torn, and a run that is started again ends with the same bits.

Starting Python takes longer than most of what is tested here. So one process of its own imports everything and forks
a child for each attempt; the children are killed by SIGKILL, which nothing can catch. The moments are counted, not
timed: a child dies at the n-th line of Python that it runs in the saving modules, or at the n-th batch. So as many die,
and at the same places, on a busy machine.
"""

import functools
import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import tinyconv
from tests.strategies import scaled

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")

ROOT = Path(__file__).parents[1]
PACKAGE = os.path.dirname(tinyconv.__file__) + os.sep


def in_a_process_of_its_own(function, folder, times):
    """Run a function of this file in a fresh Python without threads, which can fork safely; its result."""
    call = f"{function}({str(folder)!r}, {times})"
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from tests.test_kill import {function}; {call}"
    environment = {**os.environ, "TINYCONV_BACKEND": "reference", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False, timeout=600
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


def forked(work):
    """A child that does ``work`` and ends; its process number."""
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(0)
    return child


def counting_lines(work, last=None):
    """Do ``work``; how many lines of tinyconv's Python it ran. This process is killed at the last one, if given."""
    count = 0

    def line(frame, event, argument):
        nonlocal count
        count += event == "line"
        if count == last:
            os.kill(os.getpid(), signal.SIGKILL)
        return line

    def call(frame, event, argument):
        return line if frame.f_code.co_filename.startswith(PACKAGE) else None

    sys.settrace(call)
    try:
        work()
    finally:
        sys.settrace(None)
    return count


def killed(work, last=None):
    """Do ``work`` in a child; whether it was killed, at the last line."""
    _, status = os.waitpid(forked(lambda: counting_lines(work, last) if last else work()), 0)
    return os.WIFSIGNALED(status)


# Saves


def versions(folder):
    """Two models that differ in every weight, and what each one's file holds, by suffix."""
    from tests.test_saving import make, train

    models = [make(seed=1), make(seed=2)]
    for model in models:
        train(model, 1)
    contents = {}
    for suffix in (".keras", ".weights.h5", ".safetensors"):
        found = []
        for model in models:
            path = os.path.join(folder, f"original{suffix}")
            model.save(path) if suffix == ".keras" else model.save_weights(path)
            with open(path, "rb") as file:
                found.append(file.read())
            os.unlink(path)
        contents[suffix] = found
    return models, contents


def kill_saves(folder, times):
    models, contents = versions(folder)
    rng = random.Random(0)
    torn = strays = 0
    seen, lines = set(), {}
    for number in range(times):
        suffix = rng.choice(list(contents))
        path = os.path.join(folder, f"m{suffix}")

        def save_both(suffix=suffix, path=path, first=number % 2):
            for turn in (first, 1 - first):
                model = models[turn]
                model.save(path) if suffix == ".keras" else model.save_weights(path)

        if suffix not in lines:
            lines[suffix] = counting_lines(save_both)
        if not killed(save_both, rng.randint(1, int(0.9 * lines[suffix]))):  # what is cached may save some lines
            raise AssertionError("a child has saved both models and was not killed")
        strays = max(strays, len(os.listdir(folder)))
        with open(path, "rb") as file:
            content = file.read()
        torn += content not in contents[suffix]
        seen.add((suffix, contents[suffix].index(content) if content in contents[suffix] else -1))
    for suffix in contents:  # the next save takes away what the dead ones left
        path = os.path.join(folder, f"m{suffix}")
        models[0].save(path) if suffix == ".keras" else models[0].save_weights(path)
    print(json.dumps({"torn": torn, "seen": len(seen), "most": strays, "left": os.listdir(folder)}))


@pytest.mark.long
def test_no_file_is_torn_by_hundreds_of_kills(tmp_path, record_property):
    found = in_a_process_of_its_own("kill_saves", tmp_path, scaled(210))
    assert found["torn"] == 0
    assert found["seen"] == 6  # both versions of all three files
    assert sorted(found["left"]) == ["m.keras", "m.safetensors", "m.weights.h5"]
    record_property("most files at once, strays included", found["most"])


# Runs


def run(folder, name, save_freq):
    """Train to the end, from a backup if there is one, and write down the SHA-256 of everything."""
    from tests.test_callbacks import everything
    from tests.test_saving import digest, make, train
    from tinyconv.files import atomic

    model = make(seed=int.from_bytes(os.urandom(4), "little") if name != "whole" else 3)
    if name != "whole":  # the weights a user would have: the first process began with these
        first = make(seed=3)
        model.set_weights(first.get_weights())
        if not os.path.exists(os.path.join(folder, name, "latest.safetensors")):
            model.seed = first.seed
    history = train(model, 6, callbacks=everything(os.path.join(folder, name), save_freq=save_freq))
    result = json.dumps([digest(model), history.history]).encode()
    atomic.write(os.path.join(folder, f"{name}.result"), result)


def kill_runs(folder, times):
    rng = random.Random(1)
    run(folder, "whole", "epoch")
    with open(os.path.join(folder, "whole.result")) as file:
        expected = json.load(file)
    frequencies = ["epoch", 1, 2, 4]
    lines = {save_freq: counting_lines(functools.partial(run, folder, "whole", save_freq)) for save_freq in frequencies}
    kills, resumed, different = [], 0, 0
    for number in range(times):
        name, save_freq, deaths = f"run{number}", frequencies[number % 4], 0
        result = os.path.join(folder, f"{name}.result")
        while not os.path.exists(result):
            resumed += os.path.exists(os.path.join(folder, name, "latest.safetensors"))
            last = rng.randint(1, int(0.9 * lines[save_freq])) if deaths < 4 else None
            deaths += killed(lambda name=name, save_freq=save_freq: run(folder, name, save_freq), last)
        kills.append(deaths)
        with open(result) as file:
            different += json.load(file) != expected
    print(json.dumps({"kills": sum(kills), "resumed": resumed, "different": different, "left": os.listdir(folder)}))


def test_killed_runs_end_with_the_same_sha256(tmp_path, record_property):
    runs = scaled(12)
    found = in_a_process_of_its_own("kill_runs", tmp_path, runs)
    assert found["different"] == 0
    assert found["kills"] >= runs
    assert found["resumed"] >= runs / 2
    assert all(name.endswith(".result") for name in found["left"])
    record_property("kills", found["kills"])
    record_property("resumed from a backup", found["resumed"])
