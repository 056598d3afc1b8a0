#!/usr/bin/env bash
# Everything that only a GPU can tell, in one command of at most 8 minutes, from a plain copy of the tree and without the
# internet: the tests marked `gpu`, the layer's overhead, throughput, and the fine-tuning cells of the denoising benchmark.
#
#   benchmarks/gpu.sh [DATA_DIR]       # DATA_DIR as for denoise.py; without it the cells are left out
#
# PYTHON (python3), OUT_DIR (benchmarks/results) and WORKERS (8, of the cells) can be set. Each part has a time limit of
# its own; what is in the results already is not repeated, and a part that fails is noted there and stops no other.
set -uo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3} OUT_DIR=${OUT_DIR:-benchmarks/results} WORKERS=${WORKERS:-8} DATA_DIR=${1:-}
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1
RESULTS=$OUT_DIR/gpu.jsonl
mkdir -p "$OUT_DIR"
if ! "$PYTHON" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
  echo "There is no CUDA device here (torch.cuda.is_available() is False): nothing was measured." >&2
  exit 1
fi

part() { # name, seconds, command ...
  local name=$1 limit=$2 log status
  shift 2
  log=$OUT_DIR/gpu_$name.log
  echo "== $name (at most $limit s)"
  timeout "$limit" "$@" >"$log" 2>&1
  status=$?
  tail -n 3 "$log"
  "$PYTHON" - "$RESULTS" "$name" "$status" "$log" <<'PY'
import json, sys
results, name, status, log = sys.argv[1:]
lines = [line.strip() for line in open(log, errors="replace") if line.strip()]
with open(results, "a") as file:
    file.write(json.dumps({"part": "parts", "name": name, "exit status": int(status), "last line": (lines or [""])[-1][:300]}) + "\n")
PY
}

grep -qs '"name": "tests", "exit status": 0' "$RESULTS" || part tests 150 "$PYTHON" -m pytest -m gpu tests/training/test_gpu.py tests/hf/test_gpu.py -q -p no:cacheprovider --tb=short
part overhead 40 "$PYTHON" benchmarks/gpu_parts.py overhead --output "$RESULTS"
part throughput 130 "$PYTHON" benchmarks/gpu_parts.py throughput --output "$RESULTS"
if [ -n "$DATA_DIR" ]; then
  cells() {
    for worker in $(seq "$WORKERS"); do
      "$PYTHON" benchmarks/denoise.py --data-dir "$DATA_DIR" --cells fine-tuning --device cuda --part "$worker/$WORKERS" \
        --methods "cross-entropy" "noise layer" "GCE" "ELR" "genie" "SCE" "layer as published" \
        --output "$OUT_DIR/gpu_denoise_$worker.jsonl" &
    done
    wait
    ls "$OUT_DIR"/gpu_denoise_*.jsonl >/dev/null
  }
  export -f cells
  export PYTHON DATA_DIR WORKERS OUT_DIR
  part cells "${CELLS_SECONDS:-130}" bash -c cells
  cat "$OUT_DIR"/gpu_denoise_[0-9]*.jsonl >>"$OUT_DIR/gpu_denoise.jsonl" && rm -f "$OUT_DIR"/gpu_denoise_[0-9]*
fi
"$PYTHON" benchmarks/gpu_parts.py report --output "$RESULTS"
