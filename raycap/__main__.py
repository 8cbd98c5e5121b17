"""`python -m raycap` is `raycap`."""

import sys

from raycap.cli import main

sys.exit(main())
