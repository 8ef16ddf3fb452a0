#!/usr/bin/env bash
# Set up a fresh machine and run all checks; arguments go to pytest.
set -euo pipefail
source "$(dirname "$0")/setup.sh" requirements-dev.txt
.venv/bin/ruff check .
.venv/bin/ruff format --check .
# one more than there are cores: tests of whole commands also wait for them
.venv/bin/python -m pytest -q --dist worksteal -n "$(.venv/bin/python -c 'import os; print(min(8, os.cpu_count() + 1))')" "$@"
