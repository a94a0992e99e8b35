#!/usr/bin/env bash
# Set up .venv and run all checks and tests; arguments go to pytest, as in: bash run_tests.sh -m "not slow"
set -eu
cd "$(dirname "$0")"
source ./setup.sh requirements-dev.txt
ruff check .
ruff format --check .
exec python -m pytest -q "$@"
