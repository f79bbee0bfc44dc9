"""The data lake of mdserver: ticks, trades and candles as Parquet, in S3, R2 or a folder."""

from .commands import plugin

__all__ = ["plugin"]
