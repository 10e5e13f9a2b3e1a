"""The examples in the docstrings run and give what they say."""

from __future__ import annotations

import doctest
import inspect

import pytest

from cyclegan.models import discriminator, generator, initializers, layers


@pytest.mark.parametrize("module", [layers, generator, discriminator, initializers], ids=lambda module: module.__name__)
def test_docstring_examples(module) -> None:
    outcome = doctest.testmod(module)
    assert outcome.attempted > 0
    assert outcome.failed == 0


def test_every_layer_has_an_example() -> None:
    own = [kind for _, kind in inspect.getmembers(layers, inspect.isclass) if kind.__module__ == layers.__name__]
    assert len(own) == 7
    assert all(">>>" in (kind.__doc__ or "") for kind in own)
