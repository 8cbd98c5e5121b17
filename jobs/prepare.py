"""Entry point of the prepare stage for `ray job submit`; takes the options of `raycap prepare`."""

import sys

from raycap.cli import main

if __name__ == "__main__":
    sys.exit(main(["prepare", *sys.argv[1:]]))
