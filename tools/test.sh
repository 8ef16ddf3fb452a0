#!/usr/bin/env bash
# Set up a fresh machine and run all checks; arguments go to pytest.
set -euo pipefail
source "$(dirname "$0")/setup.sh" requirements-dev.txt
.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/python -m pytest -q -n auto --maxprocesses 8 "$@"
