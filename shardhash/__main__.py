"""``python -m shardhash``."""

import sys

from shardhash.cli import main

sys.exit(main())
