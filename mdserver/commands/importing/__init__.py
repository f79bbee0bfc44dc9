"""``mdserver run import``: recorded ticks from a source of history into the database.

``plan`` says what to do, ``pipeline`` does it, ``progress`` and ``summary`` tell, ``command`` has the options.
"""

from .command import plugin

__all__ = ["plugin"]
