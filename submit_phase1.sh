#!/usr/bin/env bash
# The whole pipeline under Slurm, as jobs that wait for each other:
#   data (array) -> summary -> splits and quality -> training -> reconstruction of the validation hearts
# A job starts when the one before it succeeded; if one fails, the rest is cancelled. Called again while the chain is
# under way, it submits nothing; otherwise each stage does only what is left to do.
#
#   bash submit_phase1.sh --input_dir LABELS --output_dir OUT [options] [-- training options]
#
#   --input_dir, --output_dir   label maps; OUT/cases, OUT/quality, OUT/train and OUT/reconstruction are written
#   --classes C                 number of structures (default: 10)
#   --label_mapping FILE        JSON that maps the values in the label maps to classes 1..C, or a preset (default: none)
#   --prepare_options "..."     more options of prepare_data.py in one string: "--drop_islands 0.001 --annotated 1,2,3"
#   --val_ratio R, --seed S     of the split (default: 0.2, 0)
#   --group_regex R             finds the patient in the name of a label map without its suffix, as for create_csv.py
#                               (default: each label map is of a patient of its own)
#   --tasks N                   shards of the label maps (default: 50, or one per label map when there are fewer)
#   --sbatch "..."              sbatch options for all jobs, e.g. "--account=A --partition=P"
#   --cpu_sbatch "..."          in addition, for data, splits and quality, e.g. "--partition=small --mem-per-cpu=2G"
#   --gpu_sbatch "..."          in addition, for training and reconstruction, e.g. "--partition=gpumedium --nodes=2"
#   --container, --modules, --venv, --python   which Python, see cluster.sh
#   --dry_run                   let Slurm check every job (sbatch --test-only), submit none
# Logs are written to the folder that this is called from. Training options are those of vecset/main_ae.py.
set -euo pipefail
ROOT=$(dirname "$(realpath "${BASH_SOURCE[0]}")") # this file may be a link
. "$ROOT/cluster.sh"

INPUT_DIR="" OUTPUT_DIR="" CLASSES=10 LABEL_MAPPING="" VAL_RATIO=0.2 SEED=0 GROUP_REGEX="" TASKS="" STEP="" dry_run=0
prepare=() all=() cpu=() gpu=() training=() python=()
while [ $# -gt 0 ]; do
  case $1 in
    -h | --help) sed -n '2,/^set -/{/^#/s/^# \{0,1\}//p;}' "$ROOT/submit_phase1.sh"; exit 0 ;;
    --dry_run) dry_run=1; shift; continue ;;
    --) shift; training=("$@"); break ;;
  esac
  [ $# -ge 2 ] || job_fail "$1: not an option, or it needs a value; see --help"
  case $1 in
    --input_dir) INPUT_DIR=$2 ;; --output_dir) OUTPUT_DIR=$2 ;; --classes) CLASSES=$2 ;;
    --label_mapping | --label_map) LABEL_MAPPING=$2 ;; # the second is its old name
    --prepare_options)
      words=$(xargs -n 1 printf '%s\n' <<<"$2") || job_fail "--prepare_options: a quote is left open: $2"
      if [ -n "$words" ]; then mapfile -t prepare <<<"$words"; fi ;;
    --group_regex) GROUP_REGEX=$2 ;;
    --val_ratio) VAL_RATIO=$2 ;; --seed) SEED=$2 ;; --tasks) TASKS=$2 ;; --step) STEP=$2 ;;
    --sbatch) read -ra all <<<"$2" ;; --cpu_sbatch) read -ra cpu <<<"$2" ;; --gpu_sbatch) read -ra gpu <<<"$2" ;;
    *) job_option "$1" "$2" || job_fail "$1: not an option; see --help (training options go behind --)"
      python+=("$1" "$2") ;;
  esac
  shift 2
done
INPUT_DIR=$(job_path "$INPUT_DIR")
OUTPUT_DIR=$(job_path "$OUTPUT_DIR")
LABEL_MAPPING=$(job_path "$LABEL_MAPPING")
[ -d "$INPUT_DIR" ] || job_fail "--input_dir: expected a folder of label maps, found '$INPUT_DIR'"
[ -n "$OUTPUT_DIR" ] || job_fail "--output_dir: the folder for the results is not named"
[ ! -f "$LABEL_MAPPING" ] || LABEL_MAPPING=$(realpath "$LABEL_MAPPING") # else the name of a preset
job_make_folder --output_dir "$OUTPUT_DIR"
INPUT_DIR=$(realpath "$INPUT_DIR") OUTPUT_DIR=$(realpath "$OUTPUT_DIR")
cases=$OUTPUT_DIR/cases
job_python "$ROOT" "$INPUT_DIR" "$OUTPUT_DIR" "$(job_folder_of "$LABEL_MAPPING")" \
  "$(job_folder_of "$(job_value "label_mapping label_map" ${prepare[@]+"${prepare[@]}"})")" \
  "$(job_folder_of "$(job_path "$(job_value structures ${prepare[@]+"${prepare[@]}"})")")"

# ---- the small jobs of the chain run this same file with --step
case $STEP in
  "") ;;
  summary)
    exec bash "$ROOT/run_data_sbatch.sh" --summary --input_dir "$INPUT_DIR" --output_dir "$cases" --tasks "$TASKS" \
      ${python[@]+"${python[@]}"} ;;
  check)
    job_header "submit_phase1.sh, splits and quality" "$ROOT"
    "${RUN[@]}" "$ROOT/create_csv.py" --data_dir "$cases" --output_dir "$cases" --val_ratio "$VAL_RATIO" \
      --seed "$SEED" ${GROUP_REGEX:+--group_regex "$GROUP_REGEX"}
    exec "${RUN[@]}" "$ROOT/check_data_quality.py" "$cases" --report "$OUTPUT_DIR/quality" ;;
  reconstruct)
    job_header "submit_phase1.sh, reconstruction" "$ROOT"
    exec "${RUN[@]}" "$ROOT/reconstruct.py" --checkpoint "$OUTPUT_DIR/train/checkpoint-best.pth" \
      --input "$cases/val.csv" --train_csv "$cases/train.csv" --output_dir "$OUTPUT_DIR/reconstruction" ;;
  *) job_fail "--step: no such step: $STEP" ;;
esac

for word in ${prepare[@]+"${prepare[@]}"}; do
  case "$word/$OUTPUT_DIR/" in
    --recursive"/$INPUT_DIR/"*) job_fail "--output_dir: it lies in $INPUT_DIR, so that --recursive would take the results" \
      "for label maps; give another one" ;;
  esac
done
command -v sbatch >/dev/null ||
  job_fail "sbatch: no such command here; without Slurm: bash run_train.sh --input_dir ... --output_dir ..."
[ -w . ] || job_fail "$(pwd): the logs of all jobs go to the folder that this is called from; it cannot be written to"
# environment variables become options of the jobs, because sbatch --export=NONE does not pass them on
if [ ${#python[@]} = 0 ]; then
  python=(${CONTAINER:+--container "$CONTAINER"} ${MODULES:+--modules "$MODULES"} ${VENV:+--venv "$VENV"}
    ${PYTHON:+--python "$PYTHON"})
fi
# a mistyped option is reported now, not by fifty jobs or after them
for name in data_path output_dir; do
  [ -z "$(job_value "$name" ${training[@]+"${training[@]}"})" ] ||
    job_fail "--$name: not a training option here: the chain trains on OUT/cases and writes to OUT/train"
done
train=("$ROOT/run_phase1_sbatch.sh" --data_path "$cases" --output_dir "$OUTPUT_DIR/train"
  ${python[@]+"${python[@]}"} ${training[@]+"${training[@]}"})
wrong=$(bash "${train[@]}" --options_only 2>&1 >/dev/null) || job_fail "training options: ${wrong##*error: }"
if [ ${#prepare[@]} -gt 0 ]; then
  wrong=$("${RUN[@]}" "$ROOT/prepare_data.py" --input_dir "$INPUT_DIR" --output_dir "$cases" --classes "$CLASSES" \
    "${prepare[@]}" --start_idx 0 --end_idx 0 2>&1) || job_fail "--prepare_options: ${wrong##*error: }"
fi
count=$("${RUN[@]}" -P "$ROOT/vecset/cluster/shards.py" --input_dir "$INPUT_DIR" --output_dir "$cases" \
  --tasks 1 --shard 0 "--patients${GROUP_REGEX:+=$GROUP_REGEX}" --prepare --classes "$CLASSES" \
  ${prepare[@]+"${prepare[@]}"})
count=${count#* }
if [ -z "$TASKS" ]; then TASKS=$((count < 50 ? count : 50)); fi

# ---- nothing is submitted while a chain is under way or is just being submitted
record=$OUTPUT_DIR/chain.txt part=$OUTPUT_DIR/chain-part.txt
under_way() { # under_way FILE: whether a job of this list is still in the queue
  local ids queued said
  [ -f "$1" ] || return 1
  ids=$(cut -d ' ' -f 2 "$1" | paste -sd,)
  [ -n "$ids" ] || return 1
  if queued=$(squeue --noheader --jobs "$ids" 2>/dev/null); then
    [ -n "$queued" ]
    return
  fi
  said=$(squeue --noheader --jobs "$ids" 2>&1 >/dev/null) || true
  case $said in # of jobs that Slurm has forgotten, or nothing where it answers by now
    *"Invalid job id"* | "") return 1 ;;
  esac
  job_fail "squeue does not say whether the chain of before ($1) is under way: $said; nothing submitted, try again"
}
if [ "$dry_run" = 0 ]; then
  exec 9>"$OUTPUT_DIR/.chain.lock" # released when this script ends, however it ends
  code=0
  flock --nonblock --conflict-exit-code 9 9 2>/dev/null || code=$? # other codes: a file system without locks
  [ "$code" != 9 ] || job_fail "--output_dir: another submit_phase1.sh is submitting for $OUTPUT_DIR at this moment"
  for list in "$record" "$part"; do
    if under_way "$list"; then
      echo "a chain for $OUTPUT_DIR is under way (squeue --jobs $(cut -d ' ' -f 2 "$list" | paste -sd,))," \
        "nothing submitted:"
      cat "$list"
      exit 0
    fi
  done
  rm -f "$part"
fi

submitted=() id=""
cancel_rest() { # cancels what is submitted so far; `id` may be of a job that is not in the list yet
  if [ "$dry_run" = 1 ] || [ -z "${submitted[*]}$id" ]; then return; fi
  if scancel "${submitted[@]}" ${id:+"${id%%;*}"}; then rm -f "$part"; fi
}
trap 'cancel_rest; exit 130' INT TERM HUP
submit() { # submit NAME AFTER SBATCH-WORDS...   AFTER: "" or a dependency; leaves the job's id in `id`
  local name=$1 after=$2 words=(--parsable --kill-on-invalid-dep=yes)
  shift 2
  if [ "$dry_run" = 1 ]; then
    sbatch --test-only "$@" || job_fail "Slurm refuses the job '$name' (see above)"
    id=0
    return
  fi
  if [ -n "$after" ]; then words+=("--dependency=$after"); fi
  id=$(sbatch "${words[@]}" "$@") || {
    cancel_rest
    job_fail "Slurm refused the job '$name' (see above); those before it are cancelled"
  }
  id=${id%%;*}
  submitted+=("$id")
  echo "$name $id" | tee -a "$part"
}
step() { # the words of `bash submit_phase1.sh --step STEP ...`, quoted for --wrap
  job_quote bash "$ROOT/submit_phase1.sh" --step "$1" --input_dir "$INPUT_DIR" --output_dir "$OUTPUT_DIR" \
    --tasks "$TASKS" --val_ratio "$VAL_RATIO" --seed "$SEED" ${GROUP_REGEX:+--group_regex "$GROUP_REGEX"} \
    ${python[@]+"${python[@]}"}
}
common=(--open-mode=append ${all[@]+"${all[@]}"})
small=("${common[@]}" --nodes=1 --ntasks=1 --cpus-per-task=4 --time=02:00:00 "--output=%x-%j.log" ${cpu[@]+"${cpu[@]}"})

submit data "" "${common[@]}" ${cpu[@]+"${cpu[@]}"} "--array=0-$((TASKS - 1))" "$ROOT/run_data_sbatch.sh" \
  --input_dir "$INPUT_DIR" --output_dir "$cases" --tasks "$TASKS" --classes "$CLASSES" --seed "$SEED" \
  ${LABEL_MAPPING:+--label_mapping "$LABEL_MAPPING"} ${prepare[@]+"${prepare[@]}"} ${python[@]+"${python[@]}"}
submit summary "afterany:$id" "${small[@]}" --job-name=heart-summary --wrap "$(step summary)"
submit check "afterok:$id" "${small[@]}" --job-name=heart-check --wrap "$(step check)"
submit train "afterok:$id" "${common[@]}" ${gpu[@]+"${gpu[@]}"} "${train[@]}"
submit reconstruct "afterok:$id" "${common[@]}" --cpus-per-task=8 --time=08:00:00 \
  --gres=gpu:1 "--output=%x-%j.log" ${gpu[@]+"${gpu[@]}"} --nodes=1 --ntasks=1 --job-name=heart-results \
  --wrap "$(step reconstruct)"
if [ "$dry_run" = 1 ]; then echo "dry run: Slurm accepts all jobs, none was submitted"; exit 0; fi
mv "$part" "$record"
trap - INT TERM HUP
echo "$count label maps in $TASKS shards; watch with: squeue --me; cancel all with: scancel ${submitted[*]}"
