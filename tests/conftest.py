"""What every test shares: the switch for the long ones."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--soak", action="store_true", help="also run the long tests (marked `soak`)")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--soak"):
        return
    skipped = pytest.mark.skip(reason="a long run: give --soak")
    for item in items:
        if item.get_closest_marker("soak"):
            item.add_marker(skipped)
