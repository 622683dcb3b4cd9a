# Sourced by the Slurm scripts: which Python a job uses, what it prints first, how it fails.
# A compute node installs nothing (it may have no network): run `bash environment.sh` once where there is one.
#
# The Python of a job is, in this order (each as an environment variable or as an option of the scripts):
#   CONTAINER  --container IMAGE   python3 inside an Apptainer / Singularity image; the repository and the folders that
#                                  the script was given are bound into it (CONTAINER_ARGS: more arguments for it)
#   MODULES    --modules "A B"     `module load A B` first; goes together with the ones below
#   PYTHON     --python PROGRAM    this interpreter
#   VENV       --venv FOLDER       a virtual environment
#   else .venv in the repository if it is there, else python3
# shellcheck shell=bash

job_fail() { echo "error: $*" >&2; exit 2; }

job_option() { # job_option NAME VALUE: takes one of the options above; returns 1 where it is none of them
  case $1 in
    --container) CONTAINER=$2 ;; --modules) MODULES=$2 ;; --python) PYTHON=$2 ;;
    --venv) VENV=$2 PYTHON="" ;; # an option beats what the environment says
    *) return 1 ;;
  esac
}

job_python() { # job_python ROOT FOLDERS...: fills the array RUN with the words that start Python, after checking them
  local root=$1 name engine lacking folder
  local to_do="run 'bash $root/environment.sh' on a node with a network"
  to_do+=", or give --venv, --python, --modules or --container"
  if [ -n "${MODULES:-}" ]; then
    type module >/dev/null 2>&1 || job_fail "--modules $MODULES: this node has no 'module' command"
    for name in $MODULES; do module load "$name" || job_fail "module load $name failed"; done
  fi
  if [ -n "${CONTAINER:-}" ]; then
    engine=$(command -v apptainer || command -v singularity) ||
      job_fail "--container: neither apptainer nor singularity here"
    [ -e "$CONTAINER" ] || job_fail "--container: expected an image, found no file $CONTAINER"
    RUN=("$engine" exec --nv)
    for folder in "$@"; do if [ -n "$folder" ]; then RUN+=(--bind "$folder"); fi; done
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
  lacking=$("${RUN[@]}" -P "$root/vecset/utils/requirements.py" |
    { grep -vE '^(pytest|pytest-timeout|tensorboardX|wandb)=' || true; } | paste -sd ' ')
  [ -z "$lacking" ] || job_fail "${RUN[*]} lacks $lacking; $to_do"
}

job_header() { # job_header TITLE ROOT: what every log starts with
  echo "== $1, $(date '+%Y-%m-%d %H:%M:%S %Z'), start ${SLURM_RESTART_COUNT:-0} =="
  echo "job ${SLURM_JOB_ID:-none (not under Slurm)}${SLURM_ARRAY_TASK_ID:+ task $SLURM_ARRAY_TASK_ID}," \
    "account ${SLURM_JOB_ACCOUNT:--}, partition ${SLURM_JOB_PARTITION:--}"
  echo "host $(hostname), nodes ${SLURM_JOB_NODELIST:-$(hostname)}, CPUs ${SLURM_CPUS_PER_TASK:-$(nproc)} per task"
  echo "repository $2, commit $(git -C "$2" rev-parse --short HEAD 2>/dev/null || echo unknown)"
}
