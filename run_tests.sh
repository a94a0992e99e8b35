#!/usr/bin/env bash
# Set up .venv, then run all checks and tests. Arguments go to pytest: bash run_tests.sh -m "not slow"
set -eu
cd "$(dirname "$0")"
source ./setup.sh requirements-dev.txt
# The tests start hundreds of processes, which would each compile the project's files anew.
unset PYTHONDONTWRITEBYTECODE
ruff check .
ruff format --check .
mypy
exec python -m pytest -q --numprocesses 2 --dist worksteal --durations 20 "$@"
