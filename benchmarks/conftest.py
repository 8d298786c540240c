"""What pytest-benchmark's table cannot show: the speed of each kernel beside its time."""

from benchmarks import report

COLUMNS = ("kernel", "shape", "rounds", "median ± half the IQR", "GFLOP/s", "GB/s", "other load")


def pytest_terminal_summary(terminalreporter) -> None:
    """A table of what ``test_kernel`` recorded."""
    passed = terminalreporter.getreports("passed")
    rows = [value for found in passed for name, value in found.user_properties if name == "kernel"]
    if rows:
        terminalreporter.section("kernels", sep="-")
        terminalreporter.write_line(report.table(COLUMNS, rows, right=(2, 3, 4, 5, 6)))
