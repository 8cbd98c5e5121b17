"""Entry point of the finetune stage for `ray job submit`; takes the options of `raycap finetune`."""

import sys

from raycap.cli import main

if __name__ == "__main__":
    sys.exit(main(["finetune", *sys.argv[1:]]))
