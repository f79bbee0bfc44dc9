"""Whose certificates are trusted for the engine."""

from __future__ import annotations

import ssl
from pathlib import Path

from ..errors import ConfigError

__all__ = ["trusting"]


def trusting(ca_file: Path | None) -> ssl.SSLContext:
    """Return a context of TLS that trusts the authorities in a file only; None: those of the machine. Blocking.

    Raises ConfigError where the file cannot be used.
    """
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as error:  # that of the SSL library is one
        raise ConfigError(
            [f"bus.ca_file: found {ca_file}, expected certificates of authorities, PEM: {error}"]
        ) from error
