"""What every test run shares."""

import contextlib

import pytest
from hypothesis import settings

from tinyconv.kernels import memory

settings.register_profile("slow", max_examples=2000)  # twenty times hypothesis' default, and so of every test's own


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="many more drawn configurations, and the tests marked slow")
    parser.addoption("--guarded", action="store_true", help="guard zones around every array, looked at after each step")


def pytest_configure(config):
    if config.getoption("--slow"):
        settings.load_profile("slow")


def pytest_collection_modifyitems(config, items):
    if not config.getoption("--slow"):
        for item in items:
            if "slow" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="slow: run with --slow"))


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
