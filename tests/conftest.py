"""What holds for every test: unmet needs, and reproducible property tests."""

from __future__ import annotations

import os
from collections.abc import Generator

import pytest
from hypothesis import HealthCheck, settings

from tests.needs import missing

IN_CI = os.environ.get("AUDISP_CI") == "1"

# Timings are never asserted, on a shared machine least of all: no deadline, and slow generation is no failure.
settings.register_profile("local", deadline=None, suppress_health_check=[HealthCheck.too_slow])
# The same examples each time, so that a red run can be run again.
settings.register_profile("ci", settings.get_profile("local"), derandomize=True, database=None, print_blob=True)
settings.load_profile("ci" if IN_CI else "local")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what this machine cannot run."""
    for mark in item.iter_markers("needs"):
        reason = missing(*mark.args)
        if reason:
            pytest.skip(reason)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In CI a skip is a failure, whoever asked for it, unless the corpus is what is missing."""
    report = yield
    if IN_CI and report.skipped and not hasattr(report, "wasxfail") and isinstance(report.longrepr, tuple):
        reason = report.longrepr[2].removeprefix("Skipped: ")
        if not reason.startswith("corpus:"):
            report.outcome = "failed"
            report.longrepr = f"{item.nodeid} was skipped, and AUDISP_CI=1 allows no skip: {reason}"
    return report
