"""``python -m nbrnn``: the command ``nbrnn``."""

import sys

from .cli import main

sys.exit(main())
