#!/usr/bin/env bash
# Lint, then the test suite (at most 15 minutes on 2 CPU cores). Extra arguments go to pytest.
set -euo pipefail
unset CDPATH
ROOT=$(cd -- "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$ROOT/environment.sh"

choose_python "$ROOT/requirements-dev.txt"
cd "$ROOT"
"$PYTHON" -m ruff check .
"$PYTHON" -m ruff format --check .
exec "$PYTHON" -m pytest "$@"
