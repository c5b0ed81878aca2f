"""Spread calls of a function over processes, here or on other machines: the only place that knows Dask."""

from .pool import Pool
from .session import connect, spread

__all__ = ["Pool", "connect", "spread"]
