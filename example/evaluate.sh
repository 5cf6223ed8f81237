#!/usr/bin/env bash
# Measures a checkpoint on held-out images and writes a report to read.
#
#   example/evaluate.sh                                  the latest checkpoint of out/pretrain/
#   example/evaluate.sh --all_checkpoints                every one of them, as a curve
#   example/evaluate.sh --compare=out/other/             set against another one
#   example/evaluate.sh images/val_list.txt            an image list in place of records
#   example/evaluate.sh --fit_thresholds=thresholds.tsv  a threshold a class, from this split;
#   example/evaluate.sh --threshold_file=thresholds.tsv  ... applied to another
#   example/evaluate.sh --calibrate                      a temperature and thresholds are kept
#   example/evaluate.sh --probabilities=calibrated       ... with the checkpoint (docs/metrics.md)
#
# What the checkpoint does not say, such as a released one: --label_mode=multi, --dictionary=FILE.
# A sigmoid of 0.5 is not "as likely as not": --probabilities=corrected makes it so.
# One label an image (ImageNet): --image_size=299 or --ten_crop as wished.
# On several GPUs: NP=8 example/train_distributed.sh example/evaluate.sh; the numbers are the same
# to the last digit. Flags given to this script come last and win. Paths are relative to the
# project's folder.
#
# Writes, into --result: report.html, images.html (mistakes, by class and kind), metrics.json,
# classes.csv, confusions.csv, and predictions.csv and .parquet with a row per image.
# What each number means: docs/metrics.md. The 88,739 x 11,166 scores of the whole
# validation set take 3.8 GiB below --scratch_dir (default: the system's temporary folder), and the
# metrics less than 1 GiB of memory and three minutes on two cores.
set -euo pipefail

# shellcheck source=example/environment.sh
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/environment.sh"
answer_help evaluate.py "$@"
# shellcheck disable=SC2119 # no extras are needed
prepare_environment

# shellcheck disable=SC2086 # LAUNCH is several words, from train_distributed.sh
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
