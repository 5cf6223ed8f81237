#!/usr/bin/env bash
# Predicts the top ImageNet classes of images with a finetuned checkpoint.
#
#   example/image_classification.sh photo.jpg holiday/          files, folders, "globs/*.png"
#   example/image_classification.sh --images=list.txt           a path and optional label per row
#   ls *.jpg | example/image_classification.sh -                a list on standard input
#   example/image_classification.sh --result=pred.csv photo.jpg or .jsonl, .parquet
#   example/image_classification.sh --explain=2 photo.jpg       heat maps of the top two labels
#   LAUNCH="mpirun -n 4 python" example/image_classification.sh ... split among 4 processes
#
# Flags given to this script override those below. Others to try: --ten_crop, --image_size=299,
# --use_ema, --strict, and --precision=bfloat16 on hardware that supports it. Paths are relative to
# the working folder.
#
# Where to get the checkpoint: checkpoints/README.md. Depth and class count are read from it and,
# from checkpoints of ours, also class names and label mode; 1,000 unnamed classes get the names of
# ImageNet.
#
# Writes label_pred.txt, in the released format, and an HTML page:
#
#   +++ the predictions of photo.jpg is:
#   281 tabby, tabby cat: 0.671
#   285 Egyptian cat: 0.198
set -euo pipefail

# shellcheck source=example/environment.sh
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/environment.sh"
answer_help image_classification.py "$@"
# shellcheck disable=SC2119 # no extras are needed
prepare_environment

# shellcheck disable=SC2086 # LAUNCH may be several words
exec ${LAUNCH:-python} "$PROJECT_ROOT/image_classification.py" \
  --model_dir="$PROJECT_ROOT/checkpoints/ckpt-resnet101-mlimages-imagenet" \
  --top_k_pred=5 \
  --batch_size=32 \
  --num_preprocess_threads=4 \
  --result=label_pred.txt \
  --page=label_pred.html \
  "$@"
