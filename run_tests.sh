#!/usr/bin/env bash
# The tests, from nothing:   bash run_tests.sh [--fast] [pytest arguments]
#   --fast   leaves out the tests marked slow
# Installs what it needs into .venv (or uses the Python that PYTHON names), as run_train.sh does.
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$ROOT/environment.sh"
arguments=()
for argument in "$@"; do
  case $argument in
    --fast) arguments+=(-m "not slow") ;;
    -h | --help) sed -n '2,4s/^# //p' "${BASH_SOURCE[0]}"; exit 0 ;;
    *) arguments+=("$argument") ;;
  esac
done
prepare_python "$ROOT"
lacking=$("$PYTHON" -P "$ROOT/vecset/common/requirements.py" requirements-test.txt)
if [ -n "$lacking" ]; then
  echo "installing for the tests: ${lacking//$'\n'/ }"
  # one word per requirement is what is wanted here
  # shellcheck disable=SC2086
  "$PYTHON" -m pip install --disable-pip-version-check --no-deps $lacking ||
    environment_fail "pip could not install ${lacking//$'\n'/ } (see above)"
fi
cd "$ROOT"
exec "$PYTHON" -m pytest "${arguments[@]+"${arguments[@]}"}"
