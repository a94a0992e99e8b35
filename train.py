"""Train a network under a budget of iterations: the command line of one run."""

from __future__ import annotations

import sys

from errors import exit_status_of, is_first_of_machine, say


def main(arguments: list[str]) -> int:
    """Make one run; return the exit status, 0 or that of the error, which is one line."""

    def work() -> int:
        from engine.flags import parse

        config, notes = parse(arguments)
        for note in notes if is_first_of_machine() else ():
            say(f"note: {note}")
        from engine.driver import (
            run,  # PyTorch takes seconds to import; a wrong flag is said at once
        )

        run(config)
        return 0

    return exit_status_of("train.py", work)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
