"""The examples in the docstrings run and give what they say."""

from __future__ import annotations

import doctest
import inspect

import pytest

from cyclegan.models import discriminator, generator, initializers, layers, normalization

MODULES = (layers, normalization, generator, discriminator, initializers)


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_docstring_examples(module) -> None:
    outcome = doctest.testmod(module)
    assert outcome.attempted > 0
    assert outcome.failed == 0


def test_every_layer_has_an_example() -> None:
    own = [
        kind
        for module in (layers, normalization)
        for _, kind in inspect.getmembers(module, inspect.isclass)
        if kind.__module__ == module.__name__
    ]
    assert len(own) == 8
    assert all(">>>" in (kind.__doc__ or "") for kind in own)
