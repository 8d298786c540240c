"""What every test run shares."""

import contextlib
import os
import signal
import sys

import numpy as np
import pytest
from hypothesis import settings

from tests.strategies import DRAWN
from tinyconv.kernels import memory
from tinyconv.utils import set_random_seed

for name, count in DRAWN.items():
    settings.register_profile(name, max_examples=count)


def pytest_addoption(parser):
    parser.addoption("--long", action="store_true", help="twice as much drawn, and the tests marked long")
    parser.addoption("--slow", action="store_true", help="forty times as much again, and the tests marked slow")
    parser.addoption("--guarded", action="store_true", help="guard zones around every array, looked at after each step")


def pytest_configure(config):
    # A shell lets what it runs in the background ignore Ctrl-C, and so would every process that a test starts.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # A container may ask for no bytecode. Then each of the hundreds of processes that tests start would compile the
    # source of all that it imports, which takes longer than most of what they test.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    settings.load_profile("slow" if config.getoption("--slow") else "long" if config.getoption("--long") else "quick")


def pytest_collection_modifyitems(config, items):
    wanted = {"slow": config.getoption("--slow"), "long": config.getoption("--long") or config.getoption("--slow")}
    for item in items:
        for name in wanted:
            if name in item.keywords and not wanted[name]:
                item.add_marker(pytest.mark.skip(reason=f"{name}: run with --{name}"))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """Every test gets the same numbers, alone and after others: weights without a seed, and its module's generators."""
    set_random_seed(0)
    if keras := sys.modules.get("keras"):
        keras.utils.set_random_seed(0)
    for value in vars(item.module).values():
        if isinstance(value, np.random.Generator):
            value.bit_generator.state = type(value.bit_generator)(value.bit_generator.seed_seq).state


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    with memory.guarded() if item.config.getoption("--guarded") else contextlib.nullcontext():
        return (yield)


@pytest.fixture
def record_property(record_property):
    """pytest's own, for values of any type: those of NumPy cannot travel between the processes of pytest-xdist."""
    return lambda name, value: record_property(name, str(value))


def pytest_terminal_summary(terminalreporter):
    """The properties that tests recorded: the largest error against Keras, and the like."""
    reports = [report for report in terminalreporter.getreports("passed") if report.user_properties]
    if reports:
        terminalreporter.section("measured", sep="-")
    for report in reports:
        for name, value in report.user_properties:
            terminalreporter.write_line(f"{report.nodeid.split('::')[-1]}: {name}: {value}")
