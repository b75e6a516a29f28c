"""Boundary sources: one file each, and one line here."""

from hnet.model.boundaries.boundaries import Boundaries
from hnet.model.boundaries.router import Router
from hnet.model.config import RouterConfig

BOUNDARIES = {RouterConfig: Router}

__all__ = ["BOUNDARIES", "Boundaries", "Router"]
