#!/usr/bin/env bash
# The best of 1,000 ImageNet classes for images, with a finetuned checkpoint.
#
#   example/image_classification.sh photo.jpg holiday/          files, folders, "globs/*.png"
#   example/image_classification.sh --images=list.txt           a list: a path a row, maybe a label
#   ls *.jpg | example/image_classification.sh -                a list on standard input
#   example/image_classification.sh --result=pred.csv photo.jpg or .jsonl, .parquet
#   example/image_classification.sh --explain=2 photo.jpg       heat maps of two labels on the page
#   LAUNCH="mpirun -n 4 python" example/image_classification.sh ... shared by 4 processes
#
# Flags given to this script come last and win: --ten_crop, --image_size=299, --precision=bfloat16
# on hardware that has it, --use_ema, --strict. Paths are relative to where the script is called.
#
# Where to get the checkpoint: checkpoints/README.md. Depth, class count and, in one of ours, names
# and kind of labels are read from it; 1,000 classes without names get those of ImageNet.
#
# Writes label_pred.txt, as the released code did, and a page to look at:
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

# shellcheck disable=SC2086 # LAUNCH is several words
exec ${LAUNCH:-python} "$PROJECT_ROOT/image_classification.py" \
  --model_dir="$PROJECT_ROOT/checkpoints/ckpt-resnet101-mlimages-imagenet" \
  --top_k_pred=5 \
  --batch_size=32 \
  --num_preprocess_threads=4 \
  --result=label_pred.txt \
  --page=label_pred.html \
  "$@"
