#!/usr/bin/env bash
#SBATCH --job-name=heart-data
#SBATCH --array=0-49
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=8
#SBATCH --time=02:00:00
#SBATCH --output=%x-%A_%a.log
#SBATCH --open-mode=append
#SBATCH --requeue
#
# Label maps -> case files, as a Slurm job array: each task prepares one shard of the list. Safe to run again.
#
#   sbatch [--account=A --partition=P ...] run_data_sbatch.sh --input_dir LABELS --output_dir CASES [options]
#   bash run_data_sbatch.sh --summary --input_dir LABELS --output_dir CASES     prints what is missing and why
#
#   --input_dir, --output_dir   folders; also as INPUT_DIR, OUTPUT_DIR
#   --tasks N                   number of shards (also TASKS; default: the size of the array). Required where the array
#                               has gaps, as in sbatch --array=3,17, which prepares two shards again
#   --container, --modules, --venv, --python   which Python, see cluster.sh
#   all other options go to prepare_data.py (--classes 10, --label_mapping FILE, --seed 0, --overwrite, ...)
# Account, partition, time and the like are sbatch's own options (or SBATCH_ACCOUNT, SBATCH_PARTITION, ...). Logs
# (heart-data-JOB_TASK.log) are written to the folder that sbatch was called from.
set -euo pipefail

find_root() { # the repository: Slurm runs a copy of this file from its spool folder, so scontrol is asked for its path
  local name=run_data_sbatch.sh here said try
  here=$(dirname "$(realpath "${BASH_SOURCE[0]}")")
  if [ -z "${SLURM_JOB_ID:-}" ] || [ -r "$here/cluster.sh" ]; then echo "$here"; return; fi
  for try in 1 2 3 4 5; do # a controller that is busy answers the next time
    if said=$(scontrol show job "$SLURM_JOB_ID"); then break; fi
    sleep $((3 * try))
  done
  # the first task of an array; the whole answer is read first, or scontrol fails on a closed pipe
  said=${said#*Command=} said=${said%%$'\n'*}
  case $said in */"$name"*) here=$(dirname "$(realpath "${said%%/"$name"*}/$name")") ;; esac
  echo "$here"
}
ROOT=$(find_root)
[ -r "$ROOT/cluster.sh" ] || {
  echo "error: the repository was not found (looked in $ROOT); give sbatch the path of its run_data_sbatch.sh" >&2
  exit 2
}
. "$ROOT/cluster.sh"

summary=0 passed=() python=()
while [ $# -gt 0 ]; do
  case $1 in
    --input_dir=* | --output_dir=* | --tasks=*) set -- "${1%%=*}" "${1#*=}" "${@:2}" ;;
  esac
  case $1 in
    -h | --help) sed -n '/^# Label maps/,/^set -/{/^#/s/^# \{0,1\}//p;}' "$ROOT/run_data_sbatch.sh"; exit 0 ;;
    --summary) summary=1; shift; continue ;;
    --input_dir | --output_dir | --tasks | --container | --modules | --venv | --python)
      [ $# -ge 2 ] || job_fail "$1 needs a value" ;;
    *) passed+=("$1"); shift; continue ;;
  esac
  case $1 in
    --input_dir) INPUT_DIR=$2 ;; --output_dir) OUTPUT_DIR=$2 ;; --tasks) TASKS=$2 ;;
    *) job_option "$1" "$2"; python+=("$1" "$2") ;;
  esac
  shift 2
done
[ -n "${INPUT_DIR:-}" ] || job_fail "--input_dir: the folder of label maps is not named"
[ -n "${OUTPUT_DIR:-}" ] || job_fail "--output_dir: the folder for the case files is not named"
INPUT_DIR=$(job_path "$INPUT_DIR")
OUTPUT_DIR=$(job_path "$OUTPUT_DIR")
[ -d "$INPUT_DIR" ] || job_fail "--input_dir: expected a folder of label maps, found no folder $INPUT_DIR"
INPUT_DIR=$(cd "$INPUT_DIR" && pwd)
job_make_folder --output_dir "$OUTPUT_DIR"
OUTPUT_DIR=$(cd "$OUTPUT_DIR" && pwd)
mapping=$(job_path "$(job_value "label_mapping label_map" ${passed[@]+"${passed[@]}"})")
structures=$(job_path "$(job_value structures ${passed[@]+"${passed[@]}"})")
job_python "$ROOT" "$INPUT_DIR" "$OUTPUT_DIR" "$(job_folder_of "$mapping")" "$(job_folder_of "$structures")"
logs=$OUTPUT_DIR/task-logs

first=${SLURM_ARRAY_TASK_MIN:-0} last=${SLURM_ARRAY_TASK_MAX:-0} task=${SLURM_ARRAY_TASK_ID:-0}
if [ -z "${TASKS:-}" ]; then
  if [ "$summary" = 1 ] && [ -f "$logs/tasks" ]; then TASKS=$(cat "$logs/tasks")
  elif [ "$summary" = 1 ]; then TASKS=50 # no task has begun
  elif [ "$first" = 0 ] && [ "${SLURM_ARRAY_TASK_COUNT:-1}" = $((last + 1)) ]; then TASKS=$((last + 1))
  else job_fail "--tasks: the array has gaps or does not start at 0, so give the number of shards"; fi
fi
[[ $TASKS =~ ^[1-9][0-9]*$ ]] || job_fail "--tasks: expected a whole number, found $TASKS"
[ "$last" -lt "$TASKS" ] ||
  job_fail "--tasks $TASKS: the array goes up to task $last; it must end at $((TASKS - 1)) or before"

shards=("${RUN[@]}" -P "$ROOT/vecset/cluster/shards.py" --input_dir "$INPUT_DIR" --output_dir "$OUTPUT_DIR"
  --tasks "$TASKS")
if [ "$summary" = 1 ]; then exec "${shards[@]}" --summary --logs "$logs" --again "$ROOT/run_data_sbatch.sh" \
  --prepare ${passed[@]+"${passed[@]}"}; fi

job_header "run_data_sbatch.sh, shard $task of $TASKS" "$ROOT"
mkdir -p "$logs"
echo "$TASKS" >"$logs/tasks"
# kept for the command with which --summary has missing shards prepared again
job_quote ${python[@]+"${python[@]}"} ${passed[@]+"${passed[@]}"} >"$logs/options"
range=$("${shards[@]}" --shard "$task" --prepare ${passed[@]+"${passed[@]}"})
read -r start end <<<"$range"
echo "label maps $start to $((end - 1)) of $INPUT_DIR -> $OUTPUT_DIR; Python ${RUN[*]}; ${passed[*]-}"
if [ "$start" = "$end" ]; then echo "no label map in this shard"; : >"$logs/task-$task.log"; exit 0; fi

# one worker per core that the job may use, so one thread per worker
cores=$("${RUN[@]}" -P "$ROOT/vecset/common/cores.py")
export OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1 NUMBA_NUM_THREADS=1
code=0
"${RUN[@]}" "$ROOT/prepare_data.py" --input_dir "$INPUT_DIR" --output_dir "$OUTPUT_DIR" \
  --start_idx "$start" --end_idx "$end" --file_workers "$cores" \
  ${passed[@]+"${passed[@]}"} 2>&1 | tee "$logs/task-$task.log" || code=$?
echo "== shard $task ended with exit code $code =="
exit "$code"
