#!/usr/bin/env bash
# The main job, from nothing to results; `bash run_train.sh --help` says what it does.
set -euo pipefail
ROOT=$(dirname "$(realpath "${BASH_SOURCE[0]}")") # this file may be a link
. "$ROOT/environment.sh"
for argument in "$@"; do  # help needs nothing installed
  if [ "$argument" = -- ]; then break; fi
  case $argument in -h | --help)
    for candidate in "${PYTHON:-}" "${VENV:-$ROOT/.venv}/bin/python" python3; do
      if [ -n "$candidate" ] && new_enough "$candidate"; then exec "$candidate" "$ROOT/vecset/pipeline/main.py" --help; fi
    done ;;
  esac
done
prepare_python "$ROOT"
exec "$PYTHON" "$ROOT/vecset/pipeline/main.py" "$@"
