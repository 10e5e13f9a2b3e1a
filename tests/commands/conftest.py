"""A project with a fault, and the check that a command refuses it."""

from __future__ import annotations

from refusals import project, refuses, shared_store, template

__all__ = ["project", "refuses", "shared_store", "template"]
