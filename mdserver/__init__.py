"""mdserver: a self-hosted market data server on trio."""

from importlib.metadata import version

__all__ = ["__version__"]

__version__ = version("mdserver")
