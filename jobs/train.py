"""Entry point of the train stage for `ray job submit`; takes the options of `raycap train`."""

import sys

from raycap.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
