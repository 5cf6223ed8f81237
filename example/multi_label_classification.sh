#!/usr/bin/env bash
# All that is in an image: every one of the 11,166 classes of ML-Images on its own (sigmoid), with
# a checkpoint from pretraining.
#
#   example/multi_label_classification.sh photo.jpg holiday/    see image_classification.sh for more
#   example/multi_label_classification.sh --show_labels=path ... thing > animal > ... > tabby
#   example/multi_label_classification.sh --show_labels=all ...  "animal" next to "tabby" as well
#   example/multi_label_classification.sh --threshold_file=thresholds.tsv ...  a threshold a class,
#       as example/evaluate.sh --fit_thresholds=thresholds.tsv finds them
#
# Flags given to this script come last and win. Paths are relative to where the script is called.
# The released checkpoint, which is the default, says nothing of its classes; their names and
# hierarchy are in the dictionary of the released data set. Another one, of --model_dir or
# --pretrain_ckpt, knows its own; a copy of the released one needs --dictionary, too.
#
# The threshold of 0.5 finds more than holds: training counts a positive label 12 times, so "as
# likely as not" is 0.92. --probabilities=corrected makes it 0.5.
#
# Writes label_pred.txt and a page to look at: for each image, the classes above the threshold
# that have no class below them above it, best first.
set -euo pipefail

# shellcheck source=example/environment.sh
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/environment.sh"
answer_help image_classification.py "$@"
# shellcheck disable=SC2119 # no extras are needed
prepare_environment

released=(
  --model_dir="$PROJECT_ROOT/checkpoints/ckpt-resnet101-mlimages"
  --dictionary="$PROJECT_ROOT/data/dictionary_and_semantic_hierarchy.txt"
)
[[ " $* " != *" --"@(model_dir|pretrain_ckpt)[=\ ]* ]] || released=()

# shellcheck disable=SC2086 # LAUNCH is several words
exec ${LAUNCH:-python} "$PROJECT_ROOT/image_classification.py" \
  "${released[@]}" \
  --label_mode=multi \
  --show_labels=specific \
  --threshold=0.5 \
  --top_k_pred=20 \
  --batch_size=32 \
  --num_preprocess_threads=4 \
  --result=label_pred.txt \
  --page=label_pred.html \
  "$@"
