"""Entry point of the evaluate stage for `ray job submit`; takes the options of `raycap evaluate`."""

import sys

from raycap.cli import main

if __name__ == "__main__":
    sys.exit(main(["evaluate", *sys.argv[1:]]))
