"""The examples in docstrings are true."""

import doctest
import importlib
import pkgutil

import pytest

import revisit_chassis

MODULES = [info.name for info in pkgutil.iter_modules(revisit_chassis.__path__, "revisit_chassis.")]


@pytest.mark.parametrize("name", MODULES)
def test_examples_of_module_hold(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0
