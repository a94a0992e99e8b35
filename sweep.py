# PYTHON_ARGCOMPLETE_OK - lets argcomplete ask this program
"""Make every run of a grid over train.py's flags: the command line of many runs."""

from __future__ import annotations

import sys

from engine.flags import complete
from engine.sweep.options import completion_parser, read_command_line
from errors import exit_status_of


def main(arguments: list[str]) -> int:
    """Make the runs; the exit status is 0, 1 if some failed, or that of the error."""

    complete(completion_parser)

    def work() -> int:
        options, flags = read_command_line(arguments)
        from engine.sweep.sweep import sweep

        return sweep(options, flags)

    return exit_status_of("sweep.py", work)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
