# `bash environment.sh` installs what requirements.txt names. Other scripts source this file and call
# `prepare_python ROOT`, which does the same and sets PYTHON to the interpreter. Environment variables:
#   PYTHON   a Python (3.11 or newer) to use instead of a virtual environment; packages it already has are kept
#   VENV     the virtual environment (default: ROOT/.venv); it is made where there is none
# A second call finds that all is installed and needs no network.
# shellcheck shell=bash

environment_fail() { echo "error: $*" >&2; exit 2; }

new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }

whole_path() { # whole_path PATH: absolute, links kept, ~/ replaced; a name without a slash stays
  # shellcheck disable=SC2088  # the sign itself is meant
  case $1 in "~/"*) printf '%s\n' "$HOME/${1#*/}" ;; /* | "") printf '%s\n' "$1" ;; */*) printf '%s\n' "$PWD/$1" ;;
    *) if [ "${2:-}" = folder ]; then printf '%s\n' "$PWD/$1"; else printf '%s\n' "$1"; fi ;;
  esac
}

own_pip() { # own_pip WORDS...: pip of $PYTHON, which installs there and nowhere else, with its own words
  env -u PIP_TARGET -u PIP_PREFIX -u PIP_ROOT -u PIP_DRY_RUN "$PYTHON" -m pip "$1" --disable-pip-version-check "${@:2}"
}

check_pip_settings() { # fails where a pip.conf sends packages to another folder; variables that do are left out above
  local elsewhere
  elsewhere=$("$PYTHON" -m pip config list 2>/dev/null | grep -E '^[a-z]+\.(target|prefix|root|dry-run)=' |
    paste -sd ' ') || true
  [ -z "$elsewhere" ] || environment_fail "pip's own settings send packages elsewhere ($elsewhere);" \
    "remove them ($PYTHON -m pip config unset ${elsewhere%%=*}), or: PIP_CONFIG_FILE=/dev/null bash environment.sh"
}

in_one_line() { paste -sd ' '; }

first_python() { # prints the first Python that can make virtual environments, else the first that is new enough
  local candidate other=""
  for candidate in python3 python3.13 python3.12 python3.11 python3.14; do
    if command -v "$candidate" >/dev/null && new_enough "$candidate"; then
      if "$candidate" -c 'import ensurepip, venv' >/dev/null 2>&1; then echo "$candidate"; return; fi
      other=${other:-$candidate}
    fi
  done
  echo "$other"
}

follow_move() { # follow_move VENV: a virtual environment that was moved or copied here: its scripts name the old place
  local venv=$1 old file
  old=$(sed -n "s/^ *\(export \)\{0,1\}VIRTUAL_ENV=[\"']\{0,1\}\([^\"'\$]*\)[\"']\{0,1\} *\$/\2/p" \
    "$venv/bin/activate" 2>/dev/null | head -n 1) || true
  if [ -z "$old" ] || [ "$old" = "$venv" ] || [ "$old" -ef "$venv" ] || [ ! -w "$venv/bin" ]; then return 0; fi
  echo "$venv was moved here from $old: its scripts are written anew"
  "$PYTHON" -c 'import sys; print(sys._base_executable)' | { read -r base; "$base" -m venv --without-pip "$venv"; } ||
    environment_fail "$venv names the folder $old and cannot be mended; remove $venv and run the same command again"
  for file in "$venv"/bin/*; do
    if [ -f "$file" ] && [ ! -L "$file" ] && [ "$(head -c 2 "$file" | tr -d '\0')" = "#!" ]; then
      "$PYTHON" -c 'import pathlib, sys
file, old, new = sys.argv[1:]
line, end, rest = pathlib.Path(file).read_bytes().partition(b"\n")
pathlib.Path(file).write_bytes(line.replace(old.encode() + b"/bin/", new.encode() + b"/bin/") + end + rest)' \
        "$file" "$old" "$venv"
    fi
  done
}

prepare_python() {
  local root=$1 base="" venv wanted stamp lacking said list=$1/vecset/common/requirements.py
  PYTHON=$(whole_path "${PYTHON:-}")
  if [ -n "$PYTHON" ]; then
    command -v "$PYTHON" >/dev/null || environment_fail "PYTHON=$PYTHON: no such program"
    new_enough "$PYTHON" ||
      environment_fail "PYTHON=$PYTHON: expected Python 3.11 or newer, found $("$PYTHON" -V 2>&1 | tail -n 1)"
    lacking=$("$PYTHON" -P "$list" | in_one_line) || environment_fail "PYTHON=$PYTHON: cannot list packages"
    if [ -n "$lacking" ]; then
      echo "installing into $PYTHON: $lacking"
      check_pip_settings
      # one word per requirement is what is wanted here
      # shellcheck disable=SC2086
      own_pip install $lacking ||
        environment_fail "PYTHON=$PYTHON lacks $lacking and pip could not install them (see above)"
      lacking=$("$PYTHON" -P "$list" | in_one_line)
      [ -z "$lacking" ] || environment_fail "PYTHON=$PYTHON still lacks $lacking, although pip has ended without an" \
        "error (see above); are packages sent elsewhere ($PYTHON -m pip config list)?"
    fi
    return 0
  fi

  venv=$(whole_path "${VENV:-$root/.venv}" folder)
  case $venv in *:*) environment_fail "$venv: a virtual environment cannot lie in a path with a colon, which PATH" \
    "takes for two folders; move the repository, or name another folder: VENV=/path/to/venv" ;;
  esac
  # a Python elsewhere, or its packages, would be mixed with those of the virtual environment
  unset PYTHONHOME
  if [ -n "${PYTHONPATH:-}" ]; then
    echo "note: PYTHONPATH=$PYTHONPATH is not used with $venv, which has its own packages" >&2
    unset PYTHONPATH
  fi
  if [ ! -x "$venv/bin/python" ]; then
    base=$(first_python)
    if [ -L "$venv/bin/python" ]; then echo "$venv: its Python, $(readlink "$venv/bin/python"), is gone"; fi
  elif new_enough "$venv/bin/python"; then base=$venv/bin/python
  else
    environment_fail "$venv has $("$venv/bin/python" -V 2>&1 | tail -n 1), expected Python 3.11 or newer; remove it, or" \
      "name another folder: VENV=/path/to/venv"
  fi
  [ -n "$base" ] || environment_fail "no Python 3.11 or newer found (python3 is $(python3 -V 2>&1 | tail -n 1));" \
    "install one, or name it: PYTHON=/path/to/python"
  # what is installed depends on these files and on the interpreter
  wanted=$(cat "$root/requirements.txt" "$root/pyproject.toml" |
    "$base" -c 'import hashlib, sys; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest(), sys.version.split()[0])')
  stamp=$venv/vecsetx-heart.stamp
  PYTHON=$venv/bin/python lacking=""
  if [ "$base" = "$PYTHON" ]; then
    follow_move "$venv"
    lacking=$("$PYTHON" -P "$list" --whole | in_one_line) || environment_fail "$PYTHON: cannot list packages"
    if [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then
      if [ -z "$lacking" ]; then return 0; fi
      echo "$venv lacks, all or in part, what was installed there: $lacking"
    fi
  fi

  if [ "$base" = "$PYTHON" ]; then # pip is not there where making it was interrupted, or where another tool made it
    "$PYTHON" -m pip --version >/dev/null 2>&1 || said=$("$PYTHON" -m ensurepip 2>&1) || {
      printf '%s\n' "$said" >&2
      environment_fail "$venv has no pip and lacks ${lacking:-newer packages}; pip could not be added (see above):" \
        "remove $venv, or add pip to it"
    }
  else
    if [ -e "$venv" ] && [ ! -e "$venv/pyvenv.cfg" ] && [ -n "$(ls -A "$venv" 2>&1)" ]; then
      environment_fail "$venv is no virtual environment, and not empty; remove it, or name another: VENV=/path/to/venv"
    fi
    echo "making the virtual environment $venv"
    said=$("$base" -m venv --clear "$venv" 2>&1) || {
      if [ -n "$said" ]; then printf '%s\n' "$said" >&2; fi
      environment_fail "$base cannot make a virtual environment in $venv (see above); where ensurepip is lacking, on" \
        "Debian and Ubuntu: apt-get install python3-venv; or name a Python: PYTHON=/path/to/python"
    }
  fi
  check_pip_settings
  rm -f "$stamp" # what is interrupted now is not whole
  echo "installing requirements.txt into $venv"
  {
    # what pip takes for installed, because only its files are gone
    # shellcheck disable=SC2086
    if [ -n "$lacking" ]; then PIP_USER=0 own_pip install --force-reinstall --no-deps $lacking; fi &&
      PIP_USER=0 own_pip install -r "$root/requirements.txt"
  } || environment_fail "pip could not install requirements.txt into $venv (its own words are above); remove the cause" \
    "and run the same command again: it continues"
  lacking=$("$PYTHON" -P "$list" --whole | in_one_line)
  [ -z "$lacking" ] || environment_fail "$venv still lacks $lacking, although pip has ended without an error (see" \
    "above); are packages sent elsewhere ($PYTHON -m pip config list)?"
  printf '%s\n' "$wanted" >"$stamp" || environment_fail "$stamp: cannot be written"
}

if [ "${BASH_SOURCE[0]}" = "$0" ]; then  # `bash environment.sh`: set up and say where, e.g. on a login node
  set -euo pipefail
  case ${1:-} in
    "") ;;
    -h | --help) sed -n '1,5s/^# //p' "${BASH_SOURCE[0]}"; exit 0 ;;
    *) environment_fail "$1: this script takes no arguments; see bash environment.sh --help" ;;
  esac
  prepare_python "$(dirname "$(realpath "${BASH_SOURCE[0]}")")"
  echo "ready: $PYTHON"
fi
