#!/usr/bin/env bash
# Lint, then the test suite (about ten minutes on 2 CPU cores, in parallel). Extra arguments go to pytest.
set -euo pipefail
unset CDPATH
ROOT=$(cd -- "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$ROOT/environment.sh"

choose_python "$ROOT/requirements-dev.txt"
cd "$ROOT"
"$PYTHON" -m ruff check .
"$PYTHON" -m ruff format --check .
# As many processes as cores, but few enough for their memory; one thread each, or their threads wait for each other.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
exec "$PYTHON" -m pytest -n logical --maxprocesses 4 --dist worksteal "$@"
