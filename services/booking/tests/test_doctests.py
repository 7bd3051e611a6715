"""The examples in docstrings are true."""

import doctest
import importlib
import pkgutil

import pytest

import booking.domain

DOMAIN = [info.name for info in pkgutil.iter_modules(booking.domain.__path__, "booking.domain.")]


@pytest.mark.parametrize("name", [*DOMAIN, "booking.texts", "booking.store.rows"])
def test_examples_of_module_hold(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0
