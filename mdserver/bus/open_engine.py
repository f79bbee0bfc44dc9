"""Opens the engine; only where a config names a bus is its library imported."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

from ..errors import ConfigError
from .engine import BusEngine

__all__ = ["import_engine"]


def import_engine() -> Callable[..., AbstractAsyncContextManager[BusEngine]]:
    """Return what opens the engine. Raises ConfigError where its library is not installed."""
    try:
        from .redis_engine import open_redis
    except ImportError as error:
        raise ConfigError(
            [f"bus: the library for it is not installed ({error}): pip install 'mdserver[bus]'"]
        ) from error
    return open_redis
