"""``mdserver``, and ``python -m mdserver``: the command line, which an interrupt ends quietly from the start.

Importing the command line takes a part of a second, in which Ctrl-C must not print a traceback either.
"""

import sys

__all__ = ["main"]


def main() -> int:
    """Run the command line and return its exit code."""
    try:
        from .cli import main as run

        return run()
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
