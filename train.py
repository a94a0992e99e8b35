"""Train a network under a budget of iterations: the command line of one run."""

from __future__ import annotations

import sys

from errors import RunError


def main(arguments: list[str]) -> int:
    """Make one run; the exit status is 0, or that of the error, which is told in one line."""
    try:
        from run import run
        from settings import parse

        settings, notes = parse(arguments)
        for note in notes:
            print(f"note: {note}", file=sys.stderr)
        run(settings)
    except RunError as error:
        print(f"train.py: {error}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        print("train.py: stopped; start the same command again to go on", file=sys.stderr)
        return 130
    except OSError as error:
        print(f"train.py: {error.filename or 'input/output'}: {error.strerror}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
