# Sourced by demo.sh and test.sh: sets PYTHON to an interpreter that satisfies a requirements file.
# The active Python is used as it is where it already satisfies it; otherwise .venv is made. Where the
# system's Python has a working torch (a rented GPU image), .venv builds on its packages.

fits() { # fits PYTHON REQUIREMENTS: is every line installed in a version that it asks for?
    "$1" - "$2" <<'PY' >/dev/null 2>&1
import sys
from importlib.metadata import version
from pathlib import Path

try:
    from packaging.requirements import Requirement
except ImportError:
    from pip._vendor.packaging.requirements import Requirement

assert sys.version_info >= (3, 10)


def lines(path):
    for line in path.read_text().splitlines():
        line = line.split("#")[0].strip()
        if line.startswith("-r "):
            yield from lines(path.parent / line[3:].strip())
        elif line:
            yield Requirement(line)


for wanted in lines(Path(sys.argv[1])):
    assert wanted.specifier.contains(version(wanted.name).split("+")[0], prereleases=True)
PY
}

choose_python() { # choose_python REQUIREMENTS
    local active found="$ROOT/.venv/bin/python"
    active=$(command -v python3 || command -v python || true)
    if [ -n "$active" ] && fits "$active" "$1"; then
        PYTHON=$active
        return
    fi
    PYTHON=$found
    if [ -x "$found" ] && fits "$found" "$1"; then
        return
    fi
    if [ -z "$active" ] || ! "$active" -c 'import sys; sys.exit(sys.version_info < (3, 10))'; then
        echo "error: Python 3.10 or later is needed. Install it and run this again." >&2
        exit 2
    fi
    if [ ! -x "$found" ]; then
        local site=()
        if "$active" -c 'import sys, torch, torchvision; sys.exit(sys.prefix != sys.base_prefix)' >/dev/null 2>&1; then
            site=(--system-site-packages)
        fi
        echo "Making the virtual environment .venv ..."
        if ! "$active" -m venv --clear ${site[@]+"${site[@]}"} "$ROOT/.venv"; then
            rm -rf "$ROOT/.venv" # half a one
            echo "error: no virtual environment could be made. On Debian and Ubuntu: apt install python3-venv" >&2
            exit 2
        fi
    fi
    if ! "$found" -m pip --version >/dev/null 2>&1 && ! "$found" -m ensurepip >/dev/null 2>&1; then
        echo "error: .venv has no pip, and none could be put there. Install $1 into it, or remove it." >&2
        exit 2
    fi
    echo "Installing $(basename "$1") (once; a few minutes) ..."
    if ! "$found" -m pip install --quiet --disable-pip-version-check -r "$1"; then
        echo "error: not installed. It takes about 6 GB of disk in $ROOT/.venv and, for a while, 3 GB in ${TMPDIR:-/tmp};" >&2
        echo "free are: $(df -Ph "$ROOT" | awk 'NR == 2 { print $4 }') and" \
            "$(df -Ph "${TMPDIR:-/tmp}" | awk 'NR == 2 { print $4 }'). What is there already will be used next time." >&2
        exit 1
    fi
}
