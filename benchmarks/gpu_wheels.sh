#!/usr/bin/env bash
# The packages that a machine without a network lacks, carried there as one file. PyTorch is never among them.
#
#   bash benchmarks/gpu_wheels.sh fetch [--python 3.12] [--present "NAME ..."] [--output FILE]
#       here: gets the wheels of requirements.txt and of what they need, for Linux x86_64, and packs what they install.
#       --python: that machine's Python; --present: packages that are known to be there (the file must be under 64 MiB,
#       and SciPy and Numba alone are half of that); FILE: default .wheels/site-pythonVERSION.tar.xz, which git ignores.
#       Packing takes minutes.
#   bash benchmarks/gpu_wheels.sh install FILE FOLDER
#       there: makes FOLDER a virtual environment that sees the packages of the Python in use (PYTHON, or python3) and
#       those of FILE, which come first. Prints its Python.
set -euo pipefail
ROOT=$(dirname "$(dirname "$(realpath "${BASH_SOURCE[0]}")")")
PYTHON=${PYTHON:-python3}
MOST_MIB=64
# tracking (--log_dir, --wandb) is not part of a measurement
LEFT_OUT="torch tensorboardx wandb"
# manylinux tags that the C library of any distribution since 2022 (glibc 2.35) runs; pip takes each by its own name
PLATFORMS=(2_35 2_34 2_31 2_28 2_27 2_24 2_17 2_12 2_5)

fail() { echo "error: $*" >&2; exit 2; }

fetch() {
  local version=3.12 present="" output="" folder names=() words=() platform line name
  while [ $# -gt 0 ]; do
    [ $# -gt 1 ] || fail "$1: a value is missing; see bash benchmarks/gpu_wheels.sh --help"
    case $1 in
      --python) version=$2 ;;
      --present) present=$2 ;;
      --output) output=$2 ;;
      *) fail "$1: no such option; see bash benchmarks/gpu_wheels.sh --help" ;;
    esac
    shift 2
  done
  [[ $version =~ ^3\.[0-9]+$ ]] || fail "--python: expected a version like 3.12, found $version"
  output=${output:-$ROOT/.wheels/site-python$version.tar.xz}
  while read -r line; do
    line=${line%%#*} line=${line// /} name=$(tr '[:upper:]_' '[:lower:]-' <<<"${line%%==*}")
    case " $LEFT_OUT $(tr '[:upper:]_' '[:lower:]-' <<<"$present") " in *" $name "*) continue ;; esac
    if [ -n "$line" ]; then names+=("$line"); fi
  done <"$ROOT/requirements.txt"
  [ ${#names[@]} -gt 0 ] || fail "--present names every package of requirements.txt: there is nothing to carry"
  for platform in "${PLATFORMS[@]}"; do words+=(--platform "manylinux_${platform}_x86_64"); done
  words+=(--platform manylinux2014_x86_64 --platform manylinux1_x86_64)
  words=(--disable-pip-version-check --quiet --no-compile --only-binary=:all: --implementation cp \
    --python-version "$version" "${words[@]}")
  mkdir -p "$(dirname "$output")"
  folder=$(mktemp -d "$(dirname "$output")/packing.XXXXXX")
  # shellcheck disable=SC2064 # the folder of now is meant
  trap "rm -rf '$folder'" EXIT
  # what they need in turn, too, but for what is there
  "$PYTHON" -m pip install --dry-run --ignore-installed --report "$folder/report.json" "${words[@]}" \
    --target "$folder/site" --constraint "$ROOT/requirements.txt" "${names[@]}" ||
    fail "pip finds no wheels of ${names[*]} for Python $version (see above)"
  mapfile -t names < <("$PYTHON" -c 'import json, re, sys
left_out = {re.sub("[-_.]+", "-", name).lower() for name in sys.argv[2].split()}
for package in json.load(open(sys.argv[1]))["install"]:
    name, version = (package["metadata"][key] for key in ("name", "version"))
    if re.sub("[-_.]+", "-", name).lower() not in left_out:
        print(f"{name}=={version}")' "$folder/report.json" "$LEFT_OUT $present")
  "$PYTHON" -m pip install --no-deps "${words[@]}" --target "$folder/site" "${names[@]}" ||
    fail "pip could not get ${names[*]} for Python $version (see above)"
  printf '%s\n' "$version" >"$folder/site/gpu_wheels_python"
  tar -C "$folder/site" -cf - . | xz -T0 "-${XZ_LEVEL:-4}" >"$folder/packed"
  mv "$folder/packed" "$output"
  local bytes
  bytes=$(wc -c <"$output")
  echo "$output: $((bytes / 1048576)) MiB, Python $version: ${names[*]}"
  [ "$bytes" -lt $((MOST_MIB * 1048576)) ] ||
    fail "$output is larger than $MOST_MIB MiB; name packages that are known to be there: --present \"numpy scipy numba\""
}

install() {
  [ $# -eq 2 ] || fail "install needs FILE and FOLDER; see bash benchmarks/gpu_wheels.sh --help"
  local archive=$1 venv=$2 site wanted found
  [ -f "$archive" ] || fail "$archive: no such file; make it with bash benchmarks/gpu_wheels.sh fetch"
  wanted=$("$PYTHON" -c 'import sys, tarfile
with tarfile.open(sys.argv[1]) as packed:
    print(packed.extractfile("./gpu_wheels_python").read().decode().strip())' "$archive" 2>/dev/null) ||
    fail "$archive: not a file of bash benchmarks/gpu_wheels.sh fetch, or not whole; fetch again"
  found=$("$PYTHON" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
  [ "$wanted" = "$found" ] ||
    fail "$archive is for Python $wanted, $PYTHON is $found; fetch again with --python $found"
  "$PYTHON" -m venv --clear --without-pip --system-site-packages "$venv" ||
    fail "$PYTHON cannot make a virtual environment in $venv (see above)"
  site=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
  "$PYTHON" -c 'import sys, tarfile
with tarfile.open(sys.argv[1]) as packed:
    packed.extractall(sys.argv[2], filter="data")' "$archive" "$site"
  # where $PYTHON is itself of a virtual environment, --system-site-packages means those of the Python below it
  "$PYTHON" -c 'import os, site, sys
folders = [p for p in sys.path if p.endswith(("site-packages", "dist-packages")) and os.path.isdir(p)]
print("\n".join(dict.fromkeys(folders)))' >"$site/zz_of_the_image.pth"
  "$venv/bin/python" -c 'import torch' || fail "$venv/bin/python cannot import torch, which $PYTHON should have"
  echo "$venv/bin/python"
}

case ${1:-} in
  fetch | install) "$@" ;;
  -h | --help) sed -n '2,/^set/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" ;;
  *) fail "expected fetch or install; see bash benchmarks/gpu_wheels.sh --help" ;;
esac
