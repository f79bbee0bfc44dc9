"""``python -m mdserver`` is ``mdserver``."""

import sys

from .cli import main

sys.exit(main())
