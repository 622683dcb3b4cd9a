# Sourced by the Slurm scripts: which Python a job uses, what it prints first, how it fails.
# A compute node installs nothing, for it may have no network: run `bash environment.sh` once on a node that has one.
#
# A job uses the first of these that is set (as an environment variable or as an option of the scripts):
#   CONTAINER  --container IMAGE   python3 inside an Apptainer / Singularity image; the repository and the folders that
#                                  the script was given are bound into it (CONTAINER_ARGS: more arguments for it)
#   MODULES    --modules "A B"     `module load A B` first; can be combined with those below
#   PYTHON     --python PROGRAM    this interpreter
#   VENV       --venv FOLDER       a virtual environment
#   else .venv in the repository if it is there, else python3
# shellcheck shell=bash

job_fail() { echo "error: $*" >&2; exit 2; }

job_option() { # job_option NAME VALUE: sets one of the options above; returns 1 where NAME is another option
  case $1 in
    --container) CONTAINER=$2 ;; --modules) MODULES=$2 ;; --python) PYTHON=$2 ;;
    --venv) VENV=$2 PYTHON="" ;; # an option beats what the environment says
    *) return 1 ;;
  esac
}

job_path() { # job_path PATH: with ~ or ~NAME at its start replaced by the home folder, as behind "=" bash does not
  local user home
  # shellcheck disable=SC2088  # the sign itself is meant
  case $1 in
    "~" | "~/"*) user=$(id -u) home=${HOME:-} ;;
    "~"*) user=${1%%/*} user=${user#\~} home="" ;;
    *$'\r') job_fail "${1%$'\r'} ends with a carriage return: the script that holds this command has Windows line ends" ;;
    *) printf '%s\n' "$1"; return ;;
  esac
  if [ -z "$home" ]; then home=$(getent passwd "$user" | cut -d : -f 6) || true; fi
  [ -n "$home" ] || job_fail "$1: the home folder of user $user is not known; give the whole path"
  case $1 in */*) printf '%s\n' "$home/${1#*/}" ;; *) printf '%s\n' "$home" ;; esac
}

job_value() { # job_value "NAME OLD_NAME" WORDS...: the last value of --NAME or --OLD_NAME among the words
  local names=$1 name value=""
  shift
  while [ $# -gt 0 ]; do
    for name in $names; do
      case $1 in "--$name") value=${2-} ;; "--$name="*) value=${1#*=} ;; esac
    done
    shift
  done
  echo "$value"
}

job_folder_of() { # job_folder_of FILE: its folder as an absolute path; nothing where there is no such file
  if [ -n "$1" ] && [ -e "$1" ]; then (cd "$(dirname "$1")" && pwd); fi
}

job_make_folder() { # job_make_folder OPTION FOLDER: makes it, or fails and says why it cannot be written to
  local said
  said=$(mkdir -p -- "$2" 2>&1) || job_fail "$1: ${said#mkdir: }"
  [ -w "$2" ] || job_fail "$1: cannot write to $2"
}

job_quote() { # job_quote WORDS...: quoted for sh as for bash (%q of printf may say $'...', which not every sh reads)
  local word
  for word in "$@"; do
    if [[ $word =~ ^[A-Za-z0-9_./:=,+@%-]+$ ]]; then printf '%s ' "$word"; else
      printf "'%s' " "${word//\'/\'\\\'\'}"
    fi
  done
}

job_state() { # job_state: the state that Slurm reports for this job: RUNNING, ...; nothing where it does not answer
  local said try
  for try in 1 2 3; do # a controller that is busy or just starting again answers the next time
    if said=$(scontrol show job "$SLURM_JOB_ID" 2>/dev/null) && [[ $said =~ JobState=([A-Z_]+) ]]; then
      echo "${BASH_REMATCH[1]}"
      return
    fi
    if [ "$try" -lt 3 ]; then sleep 3; fi
  done
}

job_python() { # job_python ROOT FOLDERS...: sets the array RUN to the words that start Python, after checking them
  local root=$1 name engine lacking folder
  local to_do="run 'bash $root/environment.sh' on a node with a network"
  to_do+=", or give --venv, --python, --modules or --container"
  CONTAINER=$(job_path "${CONTAINER:-}")
  PYTHON=$(job_path "${PYTHON:-}")
  VENV=$(job_path "${VENV:-}")
  if [ -n "${MODULES:-}" ]; then
    set +eu # the files of many sites fail under either
    # shellcheck disable=SC1091
    if ! type module >/dev/null 2>&1 && [ -r /etc/profile ]; then . /etc/profile; fi # sbatch --export=NONE
    type module >/dev/null 2>&1 || job_fail "--modules $MODULES: this node has no 'module' command"
    for name in $MODULES; do module load "$name" || job_fail "module load $name failed"; done
    set -eu
  fi
  if [ -n "${CONTAINER:-}" ]; then
    engine=$(command -v apptainer || command -v singularity) ||
      job_fail "--container: neither apptainer nor singularity here"
    [ -e "$CONTAINER" ] || job_fail "--container: expected an image, found no file $CONTAINER"
    RUN=("$engine" exec --nv)
    for folder in "$@"; do # under the names that the commands use, links and all
      if [ -d "$folder" ]; then RUN+=(--bind "$(cd "$folder" && pwd)"); fi
    done
    # shellcheck disable=SC2206  # more arguments, one word each
    RUN+=(${CONTAINER_ARGS:-} "$CONTAINER" python3)
  elif [ -n "${PYTHON:-}" ]; then
    RUN=("$PYTHON")
  elif [ -n "${VENV:-}" ]; then
    [ -x "$VENV/bin/python" ] || job_fail "--venv: expected a virtual environment, found no $VENV/bin/python"
    RUN=("$VENV/bin/python")
  elif [ -x "$root/.venv/bin/python" ]; then
    RUN=("$root/.venv/bin/python")
  else
    RUN=(python3)
  fi
  "${RUN[@]}" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
    job_fail "expected Python 3.11 or newer, found none as: ${RUN[*]}; $to_do"
  lacking=$("${RUN[@]}" -P "$root/vecset/common/requirements.py" |
    { grep -vE '^(pytest|pytest-timeout|tensorboardX|wandb)=' || true; } | paste -sd ' ')
  [ -z "$lacking" ] || job_fail "${RUN[*]} lacks $lacking; $to_do"
}

job_header() { # job_header TITLE ROOT: what every log starts with
  echo "== $1, $(date '+%Y-%m-%d %H:%M:%S %Z'), start ${SLURM_RESTART_COUNT:-0} =="
  echo "job ${SLURM_JOB_ID:-none (not under Slurm)}${SLURM_ARRAY_TASK_ID:+ task $SLURM_ARRAY_TASK_ID}," \
    "account ${SLURM_JOB_ACCOUNT:--}, partition ${SLURM_JOB_PARTITION:--}"
  echo "host $(hostname), nodes ${SLURM_JOB_NODELIST:-$(hostname)}, CPUs ${SLURM_CPUS_PER_TASK:-$("${RUN[@]}" -P "$2/vecset/common/cores.py")} per task"
  echo "repository $2, commit $(git -C "$2" rev-parse --short HEAD 2>/dev/null || echo unknown)"
}
