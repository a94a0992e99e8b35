#!/usr/bin/env bash
# Make .venv beside this file and install the given requirements file into it, unless that is done.
#   source setup.sh [requirements-dev.txt]
requirements=${1:-requirements.txt}
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python=${PYTHON:-python3}
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    echo "setup.sh: Python 3.11 or newer is needed; name one with PYTHON=/path/to/python3.11" >&2
    return 2 2>/dev/null || exit 2 # `return` where it is sourced, which leaves the user's shell open
fi
[ -x "$here/.venv/bin/python" ] || "$python" -m venv "$here/.venv" || return 2>/dev/null || exit
stamp="$here/.venv/.installed-$requirements"
if ! cat "$here"/requirements*.txt | cmp -s - "$stamp"; then
    "$here/.venv/bin/python" -m pip install --quiet -r "$here/$requirements" || return 2>/dev/null || exit
    cat "$here"/requirements*.txt > "$stamp"
fi
PATH="$here/.venv/bin:$PATH"
