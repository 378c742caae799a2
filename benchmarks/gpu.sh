#!/usr/bin/env bash
# What a machine with a card can tell about cl-bench, in one file, within 20 minutes.
#
#   benchmarks/gpu.sh [--device cuda] [--short] [--data FOLDER] [--engine-python PATH] [--out FILE]
#
# Runs the device tests and the step, Fisher, evaluation and pipeline benchmarks, one after another.
# Each command stands in the file above what it printed, with its seconds and exit code; one that
# fails or takes too long does not stop the others. Exit code 1 where one failed. `--short` asks
# the same commands for very little, to see that they work: `--short --device cpu` needs no card.
# Without `--data` (docs/data.md) evaluation asks the generated tasks alone.
set -u
cd "$(dirname "$0")/.." || exit 1

device=cuda short="" data="" engine_python="" out=gpu-benchmark.txt
python=${PYTHON:-python}
while [ $# -gt 0 ]; do
  case $1 in
    --device) device=$2; shift 2 ;;
    --short) short=yes; shift ;;
    --data) data=$2; shift 2 ;;
    --engine-python) engine_python=$2; shift 2 ;;
    --out) out=$2; shift 2 ;;
    -h | --help) sed -n '2,11s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) echo "$0: unknown option $1" >&2; exit 2 ;;
  esac
done

export CL_BENCH_TEST_DEVICE=$device
[ "$device" = cpu ] && export CUDA_VISIBLE_DEVICES=""
if [ "$device" != cpu ]; then
  "$python" -c "import torch, sys; sys.exit(not torch.cuda.is_available())" || {
    echo "$0: torch sees no card; try --device cpu --short" >&2
    exit 2
  }
fi

failed=0 limit=1200 began=$SECONDS
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
say() { echo "$@" | tee -a "$out"; }

# Run one command in what is left of the time, at most so many seconds.
ask() {
  local most=$1 left=$((limit - (SECONDS - began))) start=$SECONDS code
  shift
  [ "$most" -gt "$left" ] && most=$left
  say "" && say "\$ $*"
  [ "$most" -le 0 ] && say "-- left out: no time is left" && failed=1 && return
  timeout "$most" "$@" >"$scratch/said" 2>"$scratch/errors"
  code=$?
  cat "$scratch/said" | tee -a "$out"
  if [ $code -ne 0 ]; then
    failed=1
    tail -n 30 "$scratch/errors" | tee -a "$out"
  fi
  say "-- $((SECONDS - start)) s, exit code $code"
}

: >"$out"
say "# cl-bench on $device, $(date -u +%Y-%m-%dT%H:%MZ)"
ask 60 "$python" -m cl_bench doctor
[ "$device" = cpu ] || ask 20 nvidia-smi
ask 240 "$python" -m pytest -q tests/device

if [ -n "$short" ]; then
  small="--models qwen2-0.22b --layers 1 --lengths 32 --repeats 1"
  step="$small --only fggm" fisher="$small --only rows loop --oracle-samples 1" dtypes="fp32"
  evaluation="--documents 2 --new-tokens 4" pipeline="--tasks mini_fomc --limit 8 --documents 2"
else
  step="--lengths 128 512 2048" fisher="--lengths 128 512 --oracle-samples 2" dtypes="fp32 bf16"
  evaluation="" pipeline="--limit 480 --documents 96"
fi
# The words of these are meant to be split.
# shellcheck disable=SC2086
{
  ask 360 "$python" benchmarks/step.py --device "$device" $step
  ask 180 "$python" benchmarks/fisher.py --device "$device" $fisher --dtypes $dtypes
  ask 150 "$python" benchmarks/evaluation.py --device "$device" $evaluation \
    --work mini-choices mini-texts --out "$scratch/evaluation.jsonl"
  [ -n "$data" ] && ask 240 "$python" benchmarks/evaluation.py "$data" --device "$device" \
    --documents 8 --new-tokens 64 --out "$scratch/evaluation-data.jsonl"
  ask 300 "$python" benchmarks/pipeline.py $pipeline \
    ${engine_python:+--engine-python "$engine_python"}
}
say "" && say "-- all of it: $((SECONDS - began)) s; failed: $failed"
exit $failed
