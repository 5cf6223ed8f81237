#!/usr/bin/env bash
# Evaluates a checkpoint on held-out images and writes a report.
#
#   example/evaluate.sh                                  the latest checkpoint of out/pretrain/
#   example/evaluate.sh --all_checkpoints                all of its checkpoints, as a curve
#   example/evaluate.sh --compare=out/other/             compared with another checkpoint
#   example/evaluate.sh images/val_list.txt              an image list instead of records
#   example/evaluate.sh --fit_thresholds=thresholds.tsv  fits per-class thresholds on this split
#   example/evaluate.sh --threshold_file=thresholds.tsv  ... and applies them to another
#   example/evaluate.sh --calibrate                      saves a temperature and thresholds with the
#   example/evaluate.sh --probabilities=calibrated       ... checkpoint, and uses the temperature
#
# The released pretrained checkpoint also needs --label_mode=multi and --dictionary=FILE.
# A sigmoid of 0.5 does not mean even odds; with --probabilities=corrected it does.
# For single-label data (ImageNet), try --image_size=299 or --ten_crop.
# On several GPUs: NP=8 example/train_distributed.sh example/evaluate.sh; the numbers are the same
# to the last digit. Flags given to this script override those below. Paths are relative to the
# working folder.
#
# Writes to --result: report.html, images.html (mistakes, by class and kind), metrics.json,
# classes.csv, confusions.csv, and predictions.csv and .parquet with a row per image.
# docs/metrics.md defines each metric. The 88,739 x 11,166 scores of the full validation set take
# 3.8 GiB in --scratch_dir (default: the system's temporary folder); the metrics take less than
# 1 GiB of memory and three minutes on two cores.
set -euo pipefail

# shellcheck source=example/environment.sh
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/environment.sh"
answer_help evaluate.py "$@"
# shellcheck disable=SC2119 # no extras are needed
prepare_environment

# shellcheck disable=SC2086 # LAUNCH may be several words, e.g. from train_distributed.sh
exec ${LAUNCH:-python} "$PROJECT_ROOT/evaluate.py" \
  --model_dir=./out/pretrain/ \
  --val_dir=./data/val/ \
  --result=./out/evaluation/ \
  --at_k=5,10 \
  --threshold=0.5 \
  --positive_threshold=0.5 \
  --batch_size=32 \
  --precision=float32 \
  --num_preprocess_threads=8 \
  "$@"
