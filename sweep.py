"""Make every run of a grid over train.py's flags: the command line of many runs."""

from __future__ import annotations

import sys

from errors import RunError


def main(arguments: list[str]) -> int:
    """Make the runs; the exit status is 0, 1 if some failed, or that of the error."""
    try:
        from sweeping.options import read_command_line

        options, flags = read_command_line(arguments)  # before PyTorch takes seconds to import
        from sweeping.sweep import sweep

        return sweep(options, flags)
    except RunError as error:
        print(f"sweep.py: {error}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        print("sweep.py: stopped; start the same command again to go on", file=sys.stderr)
        return 130
    except OSError as error:
        print(f"sweep.py: {error.filename or 'input/output'}: {error.strerror}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
