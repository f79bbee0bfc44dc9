"""``mdserver run import``: load recorded ticks from a history source into the database.

``command`` has the options, ``plan`` decides what to do, ``pipeline`` does it, ``progress`` and ``summary`` report it.
"""

from .command import plugin

__all__ = ["plugin"]
