# `bash environment.sh` installs what requirements.txt names. Other scripts source this file and call
# `prepare_python ROOT`, which does the same and sets PYTHON to the interpreter. Environment variables:
#   PYTHON   a Python (3.11 or newer) to use instead of a virtual environment; packages it already has are kept
#   VENV     the virtual environment (default: ROOT/.venv); it is made where there is none
# A second call finds that all is installed and needs no network.
# shellcheck shell=bash

environment_fail() { echo "error: $*" >&2; exit 2; }

new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }

prepare_python() {
  local root=$1 candidate base="" venv wanted stamp lacking
  if [ -n "${PYTHON:-}" ]; then
    command -v "$PYTHON" >/dev/null || environment_fail "PYTHON=$PYTHON: no such program"
    new_enough "$PYTHON" || environment_fail "PYTHON=$PYTHON: expected Python 3.11 or newer, found $("$PYTHON" -V 2>&1)"
    lacking=$("$PYTHON" -P "$root/vecset/common/requirements.py") || environment_fail "PYTHON=$PYTHON: cannot list packages"
    if [ -n "$lacking" ]; then
      echo "installing into $PYTHON: ${lacking//$'\n'/ }"
      # one word per requirement is what is wanted here
      # shellcheck disable=SC2086
      "$PYTHON" -m pip install --disable-pip-version-check $lacking ||
        environment_fail "PYTHON=$PYTHON lacks ${lacking//$'\n'/ } and pip could not install them (see above)"
    fi
    return 0
  fi

  venv=${VENV:-$root/.venv}
  if [ -x "$venv/bin/python" ] && new_enough "$venv/bin/python"; then base=$venv/bin/python; else
    for candidate in python3 python3.13 python3.12 python3.11 python3.14; do
      if command -v "$candidate" >/dev/null && new_enough "$candidate"; then base=$candidate; break; fi
    done
  fi
  [ -n "$base" ] || environment_fail "no Python 3.11 or newer found; install one, or name it: PYTHON=/path/to/python"
  # what is installed depends on these files and on the interpreter
  wanted=$(cat "$root/requirements.txt" "$root/pyproject.toml" |
    "$base" -c 'import hashlib, sys; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest(), sys.version.split()[0])')
  stamp=$venv/vecsetx-heart.stamp
  PYTHON=$venv/bin/python
  if [ -x "$PYTHON" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then return 0; fi

  if ! "$PYTHON" -m pip --version >/dev/null 2>&1; then  # there is none, or making it was interrupted
    echo "making the virtual environment $venv"
    "$base" -m venv --clear "$venv" >/dev/null 2>&1 || environment_fail \
      "$base cannot make a virtual environment in $venv; on Debian and Ubuntu: apt-get install python3-venv; or name a Python: PYTHON=..."
  fi
  echo "installing requirements.txt into $venv"
  "$PYTHON" -m pip install --disable-pip-version-check -r "$root/requirements.txt" ||
    environment_fail "pip could not install requirements.txt (see above); run the same command again to continue"
  printf '%s\n' "$wanted" >"$stamp"
}

if [ "${BASH_SOURCE[0]}" = "$0" ]; then  # `bash environment.sh`: set up and say where, e.g. on a login node
  set -euo pipefail
  case ${1:-} in
    "") ;;
    -h | --help) sed -n '1,5s/^# //p' "${BASH_SOURCE[0]}"; exit 0 ;;
    *) environment_fail "$1: this script takes no arguments; see bash environment.sh --help" ;;
  esac
  prepare_python "$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
  echo "ready: $PYTHON"
fi
