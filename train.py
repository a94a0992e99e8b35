# PYTHON_ARGCOMPLETE_OK - lets argcomplete ask this program
"""Train a network under a budget of iterations: the command line of one run."""

import sys

from engine.flags import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
