from __future__ import annotations

from refusals import project, refuses, template

__all__ = ["project", "refuses", "template"]
