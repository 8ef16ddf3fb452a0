#!/usr/bin/env bash
# Run the tests with the least versions that the requirements allow, in an environment of its own (.venv-least).
set -euo pipefail
cd "$(dirname "$0")/.."
[ -x .venv-least/bin/python ] || "${PYTHON:-python3}" -m venv .venv-least
.venv-least/bin/python -m pip install --quiet --disable-pip-version-check uv
.venv-least/bin/uv pip install --quiet --python .venv-least/bin/python --resolution lowest-direct -r requirements-dev.txt
.venv-least/bin/python -m pytest -q -n auto --maxprocesses 8 "$@"
