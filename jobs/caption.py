"""Entry point of the caption stage for `ray job submit`; takes the options of `raycap caption`."""

import sys

from raycap.cli import main

if __name__ == "__main__":
    sys.exit(main(["caption", *sys.argv[1:]]))
