#!/usr/bin/env bash
# The tests, from nothing:   bash run_tests.sh [--fast | --lint] [pytest arguments]
#   --fast   leaves out the tests marked slow
#   --lint   only ruff: its rules and its format (pyproject.toml)
#   -n N     processes (default: one per core, at most 8; 0 for a debugger)
# Installs what it needs into .venv (or uses the Python that PYTHON names), as run_train.sh does.
set -euo pipefail
ROOT=$(dirname "$(realpath "${BASH_SOURCE[0]}")") # this file may be a link
. "$ROOT/environment.sh"
arguments=()
lint=
for argument in "$@"; do
  case $argument in
    --fast) arguments+=(-m "not slow") ;;
    --lint) lint=1 ;;
    -h | --help) sed -n '2,6s/^# //p' "${BASH_SOURCE[0]}"; exit 0 ;;
    *) arguments+=("$argument") ;;
  esac
done
prepare_python "$ROOT"
lacking=$("$PYTHON" -P "$ROOT/vecset/common/requirements.py" requirements-test.txt)
if [ -n "$lacking" ]; then
  echo "installing for the tests: ${lacking//$'\n'/ }"
  # one word per requirement is what is wanted here
  # shellcheck disable=SC2086
  own_pip install --no-deps $lacking ||
    environment_fail "pip could not install ${lacking//$'\n'/ } (see above)"
fi
cd "$ROOT"
if [ -n "$lint" ]; then
  "$PYTHON" -m ruff check && "$PYTHON" -m ruff format --check
  exit
fi
cores=$("$PYTHON" -P "$ROOT/vecset/common/cores.py")
# the last -n counts, so one among the arguments goes before this one
exec "$PYTHON" -m pytest -n "$((cores > 8 ? 8 : cores))" "${arguments[@]+"${arguments[@]}"}"
