"""Processes killed at random moments: no file is ever torn, and a run that is started again ends with the same bits.

Starting Python takes longer than most of what is tested here. So one process of its own imports everything and forks
a child for each attempt; the children are killed by SIGKILL, which nothing can catch.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")

SAVES, RUNS = 210, 12


def in_a_process_of_its_own(function, folder):
    """Run a function of this file in a fresh Python without threads, which can fork safely; its result."""
    here = os.path.dirname(os.path.abspath(__file__))
    code = f"import sys; sys.path.insert(0, {here!r}); import test_kill; test_kill.{function}({str(folder)!r})"
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


def kill_after(child, seconds):
    """Kill a child after a while; whether it was still alive."""
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


# Saves


def versions(folder):
    """Two models that differ in every weight, and what each one's file holds, by suffix."""
    from test_saving import make, train

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


def kill_saves(folder):
    models, contents = versions(folder)
    rng = random.Random(0)
    killed = torn = strays = 0
    seen = set()
    while killed < SAVES:
        suffix = rng.choice(list(contents))
        path = os.path.join(folder, f"m{suffix}")

        def save_for_ever(suffix=suffix, path=path, first=killed % 2):
            for turn in range(first, 100_000):
                model = models[turn % 2]
                model.save(path) if suffix == ".keras" else model.save_weights(path)

        killed += kill_after(forked(save_for_ever), rng.uniform(0.0, 0.06))
        strays = max(strays, len(os.listdir(folder)))
        if os.path.exists(path):
            with open(path, "rb") as file:
                content = file.read()
            torn += content not in contents[suffix]
            seen.add((suffix, contents[suffix].index(content) if content in contents[suffix] else -1))
    for suffix in contents:  # the next save takes away what the dead ones left
        path = os.path.join(folder, f"m{suffix}")
        models[0].save(path) if suffix == ".keras" else models[0].save_weights(path)
    print(json.dumps({"killed": killed, "torn": torn, "seen": len(seen), "most": strays, "left": os.listdir(folder)}))


def test_no_file_is_torn_by_two_hundred_kills(tmp_path, record_property):
    found = in_a_process_of_its_own("kill_saves", tmp_path)
    assert found["killed"] >= 200
    assert found["torn"] == 0
    assert found["seen"] == 6  # both versions of all three files
    assert sorted(found["left"]) == ["m.keras", "m.safetensors", "m.weights.h5"]
    record_property("kills", found["killed"])
    record_property("most files at once, strays included", found["most"])


# Runs


def run(folder, name, save_freq):
    """Train to the end, from a backup if there is one, and write down the SHA-256 of everything."""
    from test_callbacks import everything
    from test_saving import digest, make, train

    from tinyconv.saving import atomic

    model = make(seed=int.from_bytes(os.urandom(4), "little") if name != "whole" else 3)
    if name != "whole":  # the weights a user would have: the first process began with these
        first = make(seed=3)
        model.set_weights(first.get_weights())
        if not os.path.exists(os.path.join(folder, name, "latest.safetensors")):
            model.seed = first.seed
    history = train(model, 6, callbacks=everything(os.path.join(folder, name), save_freq=save_freq))
    result = json.dumps([digest(model), history.history]).encode()
    atomic.write(os.path.join(folder, f"{name}.result"), result)


def kill_runs(folder):
    rng = random.Random(1)
    run(folder, "whole", "epoch")
    start = time.perf_counter()  # of a second time, when everything is imported
    run(folder, "whole", "epoch")
    seconds = time.perf_counter() - start
    with open(os.path.join(folder, "whole.result")) as file:
        expected = json.load(file)
    kills, resumed, different = [], 0, 0
    for number in range(RUNS):
        name, save_freq, deaths = f"run{number}", rng.choice(["epoch", 1, 2, 4]), 0
        result = os.path.join(folder, f"{name}.result")
        while not os.path.exists(result):
            resumed += os.path.exists(os.path.join(folder, name, "latest.safetensors"))
            child = forked(lambda name=name, save_freq=save_freq: run(folder, name, save_freq))
            if deaths < 4:
                deaths += kill_after(child, rng.uniform(0.1, 1.0) * seconds)
            else:
                os.waitpid(child, 0)
        kills.append(deaths)
        with open(result) as file:
            different += json.load(file) != expected
    print(json.dumps({"kills": sum(kills), "resumed": resumed, "different": different, "left": os.listdir(folder)}))


def test_killed_runs_end_with_the_same_sha256(tmp_path, record_property):
    found = in_a_process_of_its_own("kill_runs", tmp_path)
    assert found["different"] == 0
    assert found["kills"] >= RUNS
    assert found["resumed"] >= RUNS / 2
    assert all(name.endswith(".result") for name in found["left"])
    record_property("kills", found["kills"])
    record_property("resumed from a backup", found["resumed"])
