#!/usr/bin/env bash
#SBATCH --job-name=heart-phase1
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gres=gpu:a100:4
#SBATCH --cpus-per-task=32
#SBATCH --time=36:00:00
#SBATCH --output=%x-%j.log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:USR1@300
#
# Phase 1 training under Slurm: one torchrun per node. Before the time limit, or when it is preempted, the run saves a
# checkpoint and the job requeues itself and resumes, until all epochs are done. It also does so when a process crashed
# or was killed. If there is no progress between two starts, it stops.
#
#   sbatch --account=A --partition=P run_phase1_sbatch.sh --data_path CASES --output_dir RUN [options, training options]
#   bash run_phase1_sbatch.sh --dry_run --data_path CASES --output_dir RUN     checks what can be checked without a GPU
#
#   --data_path, --output_dir   case files with train.csv and val.csv; the run folder. Also as DATA_PATH, OUTPUT_DIR
#   --gpus N                    processes per node (default: the GPUs that Slurm gave, else one)
#   --stage_dir FOLDER          copy the case files to this node-local folder first, and read them there (STAGE_DIR);
#                               '$NAME' in single quotes: the folder that the node has in this variable, as '$TMPDIR'
#   --dry_run                   print the configuration and the command, run all checks, and stop
#   --options_only              check the options and print the configuration; data, GPUs and Slurm are not checked
#   --container, --modules, --venv, --python   which Python, see cluster.sh
#   all other options go to vecset/main_ae.py (--epochs 400, --batch_size 16, --wandb offline, ...), after those in the
#                               environment variable TRAINING_OPTIONS; of an option given twice the last one counts
# Account, partition, nodes (--nodes=2), GPUs (--gres=gpu:4) and time are sbatch's own options, or SBATCH_ACCOUNT,
# SBATCH_PARTITION and so on in the environment. The log (heart-phase1-JOB.log) is written to the folder that sbatch
# was called from.
set -euo pipefail
warned=0 # Slurm's warning may come before training begins, for example while data is being copied
trap 'warned=1' USR1

find_root() { # the repository: Slurm runs a copy of this file from its spool folder, so scontrol is asked for its path
  local name=run_phase1_sbatch.sh here said try
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
  echo "error: the repository was not found (looked in $ROOT); give sbatch the path of its run_phase1_sbatch.sh" >&2
  exit 2
}
. "$ROOT/cluster.sh"

dry_run=0 options_only=0 gpus=""
read -ra training <<<"${TRAINING_OPTIONS:-}"
while [ $# -gt 0 ]; do
  case $1 in
    --data_path=* | --output_dir=* | --gpus=* | --stage_dir=*) set -- "${1%%=*}" "${1#*=}" "${@:2}" ;;
  esac
  case $1 in
    -h | --help) sed -n '/^# Phase 1/,/^set -/{/^#/s/^# \{0,1\}//p;}' "$ROOT/run_phase1_sbatch.sh"; exit 0 ;;
    --dry_run) dry_run=1; shift; continue ;;
    --options_only) options_only=1; shift; continue ;;
    --data_path | --output_dir | --gpus | --stage_dir | --container | --modules | --venv | --python)
      [ $# -ge 2 ] || job_fail "$1 needs a value" ;;
    *) training+=("$1"); shift; continue ;;
  esac
  case $1 in
    --data_path) DATA_PATH=$2 ;; --output_dir) OUTPUT_DIR=$2 ;; --gpus) gpus=$2 ;; --stage_dir) STAGE_DIR=$2 ;;
    *) job_option "$1" "$2" ;;
  esac
  shift 2
done
option() { job_path "$(job_value "$1" ${training[@]+"${training[@]}"})"; } # the value of a training option, a path

# ---- errors are found before any GPU hour is spent
[ -n "${DATA_PATH:-}" ] || job_fail "--data_path: the folder of case files is not named"
[ -n "${OUTPUT_DIR:-}" ] || job_fail "--output_dir: the run folder is not named"
DATA_PATH=$(job_path "$DATA_PATH")
OUTPUT_DIR=$(job_path "$OUTPUT_DIR")
STAGE_DIR=$(job_path "${STAGE_DIR:-}")
csv_dir=$(option csv_dir) fold=$(option fold)
if [ "$options_only" = 0 ]; then
  [ -d "$DATA_PATH" ] || job_fail "--data_path: expected a folder of case files, found no folder $DATA_PATH"
  DATA_PATH=$(cd "$DATA_PATH" && pwd)
  for name in "train${fold:+_fold$fold}.csv" "val${fold:+_fold$fold}.csv"; do
    [ -s "${csv_dir:-$DATA_PATH}/$name" ] ||
      job_fail "${csv_dir:-$DATA_PATH}/$name: no such file; make it with create_csv.py"
  done
fi
for name in resume init_from; do
  checkpoint=$(option "$name")
  [ -z "$checkpoint" ] || [ -f "$checkpoint" ] || job_fail "--$name: no such checkpoint: $checkpoint"
done
if [ "$options_only" = 0 ]; then
  job_make_folder --output_dir "$OUTPUT_DIR"
  OUTPUT_DIR=$(cd "$OUTPUT_DIR" && pwd)
  if [[ ${STAGE_DIR:-} =~ ^\$\{?([A-Za-z_][A-Za-z_0-9]*)\}?(/.*)?$ ]]; then # only the node knows its value
    name=${BASH_REMATCH[1]}
    STAGE_DIR=${!name:-}${BASH_REMATCH[2]}
    [ -n "${!name:-}" ] || [ "$dry_run" = 1 ] || job_fail "--stage_dir: $(hostname) has no \$$name"
  fi
  if [ -n "${STAGE_DIR:-}" ] && [ "$dry_run" = 0 ]; then job_make_folder --stage_dir "$STAGE_DIR"; fi
fi
job_python "$ROOT" "$DATA_PATH" "$OUTPUT_DIR" "${STAGE_DIR:-}" "$csv_dir" \
  "$(job_folder_of "$(option resume)")" "$(job_folder_of "$(option init_from)")"

if [ -z "$gpus" ]; then gpus=${SLURM_GPUS_ON_NODE:-1}; fi
[[ $gpus =~ ^[1-9][0-9]*$ ]] || job_fail "--gpus: expected a whole number above 0, found $gpus"
preflight=("${RUN[@]}" -P "$ROOT/vecset/cluster/preflight.py" --processes "$gpus")
words=(--data_path "$DATA_PATH" --output_dir "$OUTPUT_DIR" ${training[@]+"${training[@]}"})
if [ "$options_only" = 1 ]; then exec "${preflight[@]}" --options_only -- "${words[@]}"; fi
cpus=${SLURM_CPUS_PER_TASK:-$("${RUN[@]}" -P "$ROOT/vecset/common/cores.py")} nodes=${SLURM_NNODES:-1}
export OMP_NUM_THREADS=$((cpus / gpus > 0 ? cpus / gpus : 1))
export PYTORCH_CUDA_ALLOC_CONF=${PYTORCH_CUDA_ALLOC_CONF:-expandable_segments:True}
export PYTORCH_ALLOC_CONF=${PYTORCH_ALLOC_CONF:-$PYTORCH_CUDA_ALLOC_CONF} # its name from torch 2.9 on
export PYTHONUNBUFFERED=1

job_header "run_phase1_sbatch.sh" "$ROOT"
echo "data $DATA_PATH -> run $OUTPUT_DIR"
echo "$nodes node(s) x $gpus process(es), $OMP_NUM_THREADS threads each; Python ${RUN[*]}"
"${preflight[@]}" -- "${words[@]}" || exit 2 # it has printed why

# ---- data on the node's own disk
data=$DATA_PATH
if [ -n "${STAGE_DIR:-}" ]; then
  data=$STAGE_DIR/heart-${SLURM_JOB_ID:-$$}
  if [ "$dry_run" = 0 ]; then
    everywhere=()
    if [ "$nodes" -gt 1 ]; then everywhere=(srun --export=ALL --ntasks="$nodes" --ntasks-per-node=1); fi
    staged=$data
    unstage() { # removes the copy from the nodes, however the job ends
      if [ -n "$staged" ]; then ${everywhere[@]+"${everywhere[@]}"} rm -rf -- "$staged" || true; fi
      staged=""
    }
    trap unstage EXIT
    # shellcheck disable=SC2016  # the inner shell's own arguments
    ${everywhere[@]+"${everywhere[@]}"} bash -c 'mkdir -p "$2" && cp -ru "$1"/. "$2"/' stage "$DATA_PATH" "$data" ||
      job_fail "--stage_dir: could not copy the data to $data"
  fi
  echo "data staged to $data"
fi

# ---- one torchrun per node; each job uses a port of its own, so that two jobs can share a node
words=("$ROOT/vecset/main_ae.py" --data_path "$data" --output_dir "$OUTPUT_DIR" ${training[@]+"${training[@]}"})
torchrun=("${RUN[@]}" -m torch.distributed.run "--nnodes=$nodes" "--nproc_per_node=$gpus")
if [ "$nodes" -gt 1 ]; then
  names=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
  head_node=${names%%$'\n'*}
  port=$((12000 + SLURM_JOB_ID % 20000)) # below the range that Linux assigns itself
  torchrun+=(--rdzv_backend=c10d "--rdzv_endpoint=$head_node:$port" "--rdzv_id=$SLURM_JOB_ID")
else
  torchrun+=(--standalone)
fi
# USR1 must not kill torchrun while its workers save: torchrun inherits "ignored", the workers set their own handler.
# srun resets signals to their defaults in its tasks, so the signal is ignored inside the task.
launch=(bash -c 'trap "" USR1; exec "$@"' torchrun)
if [[ $(trap -p HUP) == "trap -- '' "* ]]; then # nohup: torchrun's own handler would end its workers with the terminal
  export TORCHELASTIC_SIGNALS_TO_HANDLE=SIGTERM,SIGINT,SIGQUIT PET_SIGNALS_TO_HANDLE=SIGTERM,SIGINT,SIGQUIT
fi
# srun does not take --cpus-per-task over from sbatch, and after sbatch --export=NONE it would pass on no environment
if [ -n "${SLURM_JOB_ID:-}" ]; then
  launch=(srun --export=ALL --ntasks="$nodes" --ntasks-per-node=1 --cpus-per-task="$cpus" --kill-on-bad-exit=1
    "${launch[@]}")
fi
echo "command: ${torchrun[*]} ${words[*]}"
if [ "$dry_run" = 1 ]; then echo "dry run: all checks passed, nothing started"; exit 0; fi

progress() { # progress position|state|how: see vecset/cluster/run_state.py
  "${RUN[@]}" -P "$ROOT/vecset/cluster/run_state.py" "$OUTPUT_DIR" "$1"
}
before=$(progress position)
echo "at the start: $before"
starts=$OUTPUT_DIR/starts.txt here="job ${SLURM_JOB_ID:-none} at $before" in_vain=0
if [ -n "${SLURM_JOB_ID:-}" ]; then # counts the last starts of this job that began at the same position
  while read -r line; do if [ "$line" = "$here" ]; then in_vain=$((in_vain + 1)); else in_vain=0; fi; done \
    < <(if [ -f "$starts" ]; then cat "$starts"; fi)
  if [ "$in_vain" -ge 2 ]; then
    echo "error: the last $in_vain starts of this job made no progress ($before): not started once more; find the" \
      "cause, then submit it again" >&2
    exit 1
  fi
  echo "$here" >>"$starts" || job_fail "--output_dir: cannot write to $starts"
fi

repeating="" code=0
stopping=0 # asked to stop, by any signal; `warned`: by USR1, after which the job still has some minutes
ask_to_stop() { # 0, said: a bare return in a trap gives the status of the command that was interrupted
  local said
  if [ -n "${SLURM_JOB_ID:-}" ]; then
    said=$(scancel --signal=USR1 "$SLURM_JOB_ID" 2>&1) && return 0
  else
    said=$(pkill -USR1 -P "$child" 2>&1) && return 0
  fi
  if kill -0 "$child" 2>/dev/null; then echo "note: the training could not be asked to stop: ${said:-no process}" >&2; fi
}
on_signal() { # only this shell gets Slurm's warning; it passes it on to the training processes of every node
  if [ "$stopping" = 1 ]; then return 0; fi
  stopping=1
  echo "== $(date '+%H:%M:%S') asked to stop: saving =="
  ask_to_stop
  # sent again for processes that were just starting and missed it
  while sleep 15; do ask_to_stop; done &
  repeating=$!
}
trap 'warned=1; on_signal' USR1
trap on_signal TERM HUP # bash leaves a signal alone that was ignored when it started (nohup)
if [ "$warned" = 1 ]; then
  stopping=1 state=stopped after=$before
  echo "== asked to stop before training began =="
else
  "${launch[@]}" "${torchrun[@]}" "${words[@]}" &
  child=$!
  while :; do # a trapped signal ends `wait` early
    code=0; wait "$child" || code=$?
    kill -0 "$child" 2>/dev/null || break
  done
  state=$(progress state) after=$(progress position)
  echo "== training ended with exit code $code, state $state, at $after =="
fi
if [ -n "$repeating" ]; then kill "$repeating" 2>/dev/null || true; fi
trap '' USR1 # a second signal must not interrupt what is left to do
trap - TERM HUP
# if this start failed without progress, the state is that of an earlier start and does not count
if [ "$state" = finished ] && { [ "$code" = 0 ] || [ "$after" != "$before" ]; }; then exit 0; fi
if [ "$state" = "time is up" ]; then exit "$code"; fi # --max_steps or --max_minutes: ended as requested
crashed=0
if [ "$stopping" = 0 ] && { [ "$state" != stopped ] || [ "$after" = "$before" ]; }; then
  crashed=1
  echo "error: training broke off (exit code $code); for the cause look above for a traceback, 'error:' or 'Signal'" \
    "of the process that ended first" >&2
  if [ "$(progress how)" = "not finite" ]; then exit "$((code > 0 ? code : 1))"; fi # the same would happen again
fi
# a crash without progress would repeat itself; a run that was stopped without progress gets a second try
if [ "$after" = "$before" ] && { [ "$crashed" = 1 ] || [ "$in_vain" -ge 1 ] || [ -z "${SLURM_JOB_ID:-}" ]; }; then
  echo "error: no progress since this start ($after): not requeued; give the job more time, or see the log above" >&2
  exit 1
fi
if [ "$crashed" = 1 ] && [ -z "${SLURM_JOB_ID:-}" ]; then exit $((code > 0 ? code : 1)); fi
[ -n "${SLURM_JOB_ID:-}" ] || { echo "saved; run the same command again to resume"; exit 75; }
# TERM without USR1 before it, and the job is ending: cancelled by its owner, or Slurm requeues it by itself
if [ "$warned" = 0 ] && [ "$(job_state)" != RUNNING ]; then
  echo "saved; the job was cancelled, or Slurm requeues it: it is not requeued from here"
  exit 0
fi
if [ -n "${staged:-}" ]; then unstage; fi
requeued=0 said=""
for pause in 2 5 10; do
  echo "saved at $after; asking Slurm to requeue the job"
  if said=$(scontrol requeue "$SLURM_JOB_ID" 2>&1); then requeued=1; break; fi
  if [ "$(job_state)" != RUNNING ]; then requeued=1; echo "Slurm requeues it by itself"; break; fi
  echo "$said"
  sleep "$pause"
done
# not exit code 0: a job that waits for this one (afterok) must not start from an unfinished run
[ "$requeued" = 1 ] || {
  echo "error: saved, but Slurm does not requeue the job ($said): submit the same line again to go on" >&2
  exit 75
}
