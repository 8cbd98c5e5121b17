"""Entry point of the extract stage for `ray job submit`; takes the options of `raycap extract`."""

import sys

from raycap.cli import main

if __name__ == "__main__":
    sys.exit(main(["extract", *sys.argv[1:]]))
