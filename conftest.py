"""What holds for all tests, the server's and the plugins'."""

import os
import shutil
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings

BYTECODE = Path(sys.prefix) / "bytecode"
"""Where compiled modules go if PYTHONDONTWRITEBYTECODE keeps them out of the clone; dev.py sees to it too."""

# Without them each worker and each server that a test starts compiles a thousand modules again, for seconds.
if os.environ.pop("PYTHONDONTWRITEBYTECODE", "") and sys.prefix != sys.base_prefix:
    os.environ["PYTHONPYCACHEPREFIX"] = sys.pycache_prefix = str(BYTECODE)
    sys.dont_write_bytecode = False

# No deadline per example: on a busy machine it fails by chance, and shrinking such a failure takes for ever.
settings.register_profile("mdserver", deadline=None)
if settings.get_current_profile_name() == "default":  # with CI=true Hypothesis brings its own, repeatable one
    settings.load_profile("mdserver")


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Forget the compiled modules of what tests made in the temporary folder, which the next run makes elsewhere."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        shutil.rmtree(BYTECODE / tempfile.gettempdir().lstrip("/"), ignore_errors=True)
