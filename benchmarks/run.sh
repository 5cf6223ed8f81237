#!/usr/bin/env bash
# Runs the benchmarks and prints a table for each, and one of all: ours, peers, the machine's limit,
# ratios, memory.
#
#   benchmarks/run.sh                    # all but scaling and transfer (some hours on two cores)
#   benchmarks/run.sh limits train loss  # some of them
#   benchmarks/run.sh scaling            # workers; needs example/install_horovod.sh
#   ROWS=17609752                        # of the lists: the size of ML-Images
#   OUT=out/benchmarks                   # where the JSON of each part and the plots go
#   IMG2DATASET=i2d/bin/python           # an environment that has it, see benchmarks/download.py
#
# Peers that are not installed are left out with a note; they are wanted for benchmarks only:
# pip install torch nvidia-dali-cuda120 nvidia-nvimgcodec-cu12
set -euo pipefail

OUT="${OUT:-out/benchmarks}"
[[ "$OUT" == /* ]] || OUT="$PWD/$OUT"
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=example/environment.sh
source example/environment.sh
answer_help "" "$@"
prepare_environment demo export benchmark

PARTS=(limits train train_sizes train_bfloat16 loss input inference conversion download lists
  metrics startup growth)
mkdir -p "$OUT"
(($#)) || set -- "${PARTS[@]}"

for part in "$@"; do
  printf '\n== %s, %s\n' "$part" "$(date -u +%F)"
  json=(--json "$OUT/$part.json")
  case "$part" in
    train) python benchmarks/train_step.py "${json[@]}" ;;
    train_sizes)
      peers=(--contenders ours keras pytorch)
      python benchmarks/train_step.py "${peers[@]}" --batch 8 --image_size 299 "${json[@]}"
      python benchmarks/train_step.py "${peers[@]}" --batch 32 --class_num 1000 \
        --json "$OUT/train_1000_classes.json"
      # Side by side these would not fit into 24 GiB.
      python benchmarks/train_step.py "${peers[@]}" --batch 32 --image_size 299 --together 1 \
        --json "$OUT/train_299_pixels.json"
      python benchmarks/train_step.py "${peers[@]}" --batch 64 --together 1 \
        --json "$OUT/train_batch_64.json"
      ;;
    train_bfloat16)
      # Without bfloat16 instructions, peers need minutes for a step of 32.
      python benchmarks/train_step.py --dtype bfloat16 --batch 4 "${json[@]}"
      python benchmarks/train_step.py --dtype bfloat16 --batch 32 --contenders ours \
        "ours, recomputing" "ours, in float32" --json "$OUT/train_bfloat16_32.json"
      ;;
    input)
      python benchmarks/input_pipeline.py "${json[@]}"
      taskset --cpu-list 0 python benchmarks/input_pipeline.py --json "$OUT/input_one_core.json"
      ;;
    download)
      python benchmarks/download.py ${IMG2DATASET:+--img2dataset "$IMG2DATASET"} "${json[@]}"
      ;;
    lists) python benchmarks/lists.py ${ROWS:+--rows "$ROWS"} "${json[@]}" ;;
    scaling) python benchmarks/scaling.py --output "$OUT/scaling.json" ;;
    growth)
      scaling=()
      [[ ! -e "$OUT/scaling.json" ]] || scaling=(--scaling "$OUT/scaling.json")
      python benchmarks/growth.py "${scaling[@]}" --plot "$OUT/growth.png" "${json[@]}"
      ;;
    inference)
      python benchmarks/inference.py "${json[@]}"
      python benchmarks/inference.py --precision bfloat16 --json "$OUT/inference_bfloat16.json"
      ;;
    limits | loss | conversion | metrics | startup | transfer)
      python "benchmarks/$part.py" "${json[@]}"
      ;;
    *)
      echo "error: no benchmark $part; there are: ${PARTS[*]} scaling transfer" >&2
      exit 1
      ;;
  esac
done

printf '\n'
python benchmarks/summary.py "$OUT" --json "$OUT.json"
