#!/usr/bin/env bash
# What is worth measuring on a GPU that is lent for a quarter of an hour, most wanted first:
#
#   bash benchmarks/gpu_session.sh [--parts tests,recipe,gpu_train,recipe_steps] [--seconds 840]
#        [--train_seconds 360] [--output_dir DIR] [--work_dir DIR] [--wheels FILE] [--cpu]
#
#   1 tests         the tests marked gpu, slow ones included
#   2 recipe        the network of the gpu recipe, trained for --train_seconds (its schedule fitted to them), tuned and
#                   reconstructed on its 40 unseen hearts of 128^3 voxels; aims: mean Dice 0.96, coronary 0.85
#   3 gpu_train     the training step of the 425 M model; aims: 100 cases per second, 40 GB at batch 64
#   4 recipe_steps  the training steps of the recipes' networks, as they are, compiled, and as CUDA graphs
#
# --parts: some of them, by name or number, in this order. --seconds: of all; each part is ended when its own time is up
# (what an earlier part leaves over goes to the next). The hearts of part 2 are made meanwhile on the free cores.
# --output_dir (default: $OUT where that is set, else output/gpu_session): results.md, results.json, metrics.csv and a
# log per part, written as each part ends, also of one that was cut off. --work_dir (default: output/gpu_session_work):
# hearts, checkpoints. --wheels: packages that this machine lacks, a file of benchmarks/gpu_wheels.sh.
# --cpu: every part in tiny sizes, without a GPU; its figures mean nothing.
# Exit code: 0, 1 where a part failed or was cut off, 2 where nothing can be measured.
set -euo pipefail
ROOT=$(dirname "$(dirname "$(realpath "${BASH_SOURCE[0]}")")")
BENCHMARKS=$ROOT/benchmarks
ALL=(tests recipe gpu_train recipe_steps)
declare -A OWN_SECONDS=([tests]=120 [recipe]=490 [gpu_train]=130 [recipe_steps]=85)
declare -A RESULT=()

fail() { echo "error: $*" >&2; exit 2; }

is_number() { [[ $1 =~ ^[1-9][0-9]{0,5}$ ]]; }

parts="" total=840 train_seconds=360 output=${OUT:-$ROOT/output/gpu_session} work=$ROOT/output/gpu_session_work
wheels="" cpu=""
while [ $# -gt 0 ]; do
  case $1 in
    -h | --help) sed -n '2,/^set/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" | grep -v '^set'; exit 0 ;;
    --cpu) cpu=--cpu; shift; continue ;;
    --parts | --seconds | --train_seconds | --output_dir | --work_dir | --wheels) ;;
    *) fail "$1: no such option; see bash benchmarks/gpu_session.sh --help" ;;
  esac
  [ $# -gt 1 ] || fail "$1: a value is missing; see bash benchmarks/gpu_session.sh --help"
  case $1 in
    --parts) parts=$2 ;;
    --seconds) total=$2 ;;
    --train_seconds) train_seconds=$2 ;;
    --output_dir) output=$(realpath -m "$2") ;;
    --work_dir) work=$(realpath -m "$2") ;;
    --wheels) wheels=$(realpath -m "$2") ;;
  esac
  shift 2
done
is_number "$total" || fail "--seconds: expected a whole number of seconds, found $total"
is_number "$train_seconds" || fail "--train_seconds: expected a whole number of seconds, found $train_seconds"
wanted=()
for number in 1 2 3 4; do
  name=${ALL[number - 1]}
  case ",${parts:-tests,recipe,gpu_train,recipe_steps}," in *",$name,"* | *",$number,"*) wanted+=("$name") ;; esac
done
for word in ${parts//,/ }; do
  case $word in [1-4] | tests | recipe | gpu_train | recipe_steps) ;;
    *) fail "--parts: expected some of tests, recipe, gpu_train, recipe_steps, found $word" ;; esac
done
[ ${#wanted[@]} -gt 0 ] || fail "--parts: names no part; leave it out for all"
case $output/ in "$work"/*) fail "--output_dir must not lie in --work_dir, which is emptied" ;; esac
case $work/ in "$output"/*) fail "--work_dir must not lie in --output_dir, which is to stay small" ;; esac

cd "$ROOT"
# a folder of ours is emptied; another one is not
if [ -e "$work" ] && [ ! -e "$work/gpu_session" ] && [ -n "$(ls -A "$work")" ]; then
  fail "--work_dir $work: not empty, and not made by this script; name another folder"
fi
if [ -z "${PYTHON:-}" ]; then
  PYTHON=python3
  if [ -z "$wheels" ] && [ -x "$ROOT/.venv/bin/python" ]; then PYTHON=$ROOT/.venv/bin/python; fi
fi
export PYTHON PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
"$PYTHON" -c 'import torch' 2>/dev/null || fail "$PYTHON has no PyTorch; name a Python that has: PYTHON=/path/to/python"
if [ -z "$cpu" ] && ! "$PYTHON" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' 2>/dev/null; then
  fail "no GPU found by PyTorch of $PYTHON; --cpu runs every part in tiny sizes"
fi
rm -rf "$work"
mkdir -p "$work" "$output"
touch "$work/gpu_session"
for name in results.json results.md metrics.csv "${ALL[@]/%/.log}"; do rm -f "$output/$name"; done
if [ -n "$wheels" ]; then PYTHON=$(bash "$BENCHMARKS/gpu_wheels.sh" install "$wheels" "$work/venv") || exit 2; fi
lacking=$("$PYTHON" -P vecset/common/requirements.py | grep -viE '^(tensorboardx|wandb)=' | paste -sd ' ') || true
cores=$("$PYTHON" -P vecset/common/cores.py)

session() { "$PYTHON" "$BENCHMARKS/gpu_session.py" "$@" --work_dir "$work" $cpu; }

record() { session record --output_dir "$output" "$@"; }

record --part session --seconds "$SECONDS" --limit "$total"

recipe=gpu
if [ -n "$cpu" ]; then
  recipe=tiny
  export OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1 # so small that threads only wait for each other
fi
data_process=
# shellcheck disable=SC2317 # called by the trap
end_data() {
  if [ -n "$data_process" ] && kill -0 "$data_process" 2>/dev/null; then kill -- "-$data_process" 2>/dev/null || true; fi
}
trap end_data EXIT
trap 'exit 143' TERM
trap 'exit 130' INT
if [[ " ${wanted[*]} " == *" recipe "* ]] && [ -z "$lacking" ]; then
  processes=$cores
  if [[ " ${wanted[*]} " == *" tests "* ]] && [ "$cores" -gt 8 ]; then processes=$((cores - 4)); fi
  if [ -n "$cpu" ]; then processes=1; fi
  # a process group of its own, so that it can be ended with all its workers
  setsid nice "$PYTHON" "$BENCHMARKS/gpu_session.py" data --recipe $recipe --processes "$processes" --work_dir "$work" \
    >"$output/recipe.log" 2>&1 &
  data_process=$!
fi

tests_part() { # tests_part SECONDS, as all of them
  local files parallel=()
  mapfile -t files < <(grep -rlE '\bmark\.gpu\b' tests --include='test_*.py')
  if [ -z "$cpu" ] && "$PYTHON" -c 'import xdist' 2>/dev/null; then parallel=(-n 4 --dist load); fi
  "$PYTHON" -m pytest -vv -p no:cacheprovider -p no:warnings -m gpu "${parallel[@]}" "${files[@]}"
}
recipe_part() {
  session recipe --recipe $recipe --processes $((cores > 8 ? 8 : cores)) --data_process "$data_process" --seconds "$1" \
    --train_seconds "$train_seconds"
}
gpu_train_part() {
  local tiny=()
  if [ -n "$cpu" ]; then tiny=(--tiny --device cpu --steps 1 --no_compile); fi
  "$PYTHON" "$BENCHMARKS/gpu_train.py" --no_reference --json "$work/gpu_train.rows" --minutes "$(minutes "$1")" "${tiny[@]}"
}
recipe_steps_part() {
  local tiny=()
  if [ -n "$cpu" ]; then tiny=(--tiny --device cpu --steps 1); fi
  "$PYTHON" "$BENCHMARKS/recipe_steps.py" --json "$work/recipe_steps.rows" --minutes "$(minutes "$1")" "${tiny[@]}"
}
minutes() { # no row begins in the last tenth of SECONDS: it would be cut off
  local tenths=$(($1 * 9))
  printf '%d.%03d\n' $((tenths / 600)) $((tenths % 600 * 1000 / 600))
}

export -f session tests_part recipe_part gpu_train_part recipe_steps_part minutes
export BENCHMARKS work cpu recipe cores data_process train_seconds

run_part() { # run_part NAME SECONDS
  local began=$SECONDS code=0 log=$output/$1.log
  if [ -n "$lacking" ] && { [ "$1" = tests ] || [ "$1" = recipe ]; }; then
    RESULT[$1]=1
    record --part "$1" --note "left out: $PYTHON lacks $lacking; carry them: bash benchmarks/gpu_wheels.sh"
    return
  fi
  echo "--- $1, at most $2 s"
  { timeout --kill-after=10 "$2" bash -euo pipefail -c "$1_part $2" 2>&1 | tee -a "$log"; } || code=$?
  RESULT[$1]=$code
  record --part "$1" --log "$log" --rows "$work/$1.rows" --code "$code" --seconds $((SECONDS - began)) --limit "$2"
}

for index in "${!wanted[@]}"; do
  name=${wanted[index]} later=0
  for other in "${wanted[@]:index+1}"; do later=$((later + OWN_SECONDS[$other])); done
  left=$((total - SECONDS - 15)) # 15 s to end a part, and for the record
  limit=$((left - later))
  if [ "$limit" -lt "${OWN_SECONDS[$name]}" ]; then limit=${OWN_SECONDS[$name]}; fi
  if [ "$limit" -gt "$left" ]; then limit=$left; fi
  if [ "$limit" -lt 10 ]; then
    RESULT[$name]=1
    record --part "$name" --note "left out: the time is up"
  else
    run_part "$name" "$limit"
  fi
done

echo
cat "$output/results.md"
echo "written: $output, after $SECONDS s"
for name in "${wanted[@]}"; do [ "${RESULT[$name]}" = 0 ] || exit 1; done
