#!/usr/bin/env bash
# Predicts all classes in an image, each of the 11,166 of ML-Images independently (sigmoid), with a
# pretrained checkpoint.
#
#   example/multi_label_classification.sh photo.jpg holiday/    see image_classification.sh for more
#   example/multi_label_classification.sh --show_labels=path ... thing > animal > ... > tabby
#   example/multi_label_classification.sh --show_labels=all ...  "animal" as well as "tabby"
#   example/multi_label_classification.sh --threshold_file=thresholds.tsv ...  per-class thresholds
#       from example/evaluate.sh --fit_thresholds=thresholds.tsv
#
# Flags given to this script override those below. Paths are relative to the working folder.
# The default, the released checkpoint, has no class names; names and hierarchy come from the
# dictionary of the released data set. Checkpoints of ours (--model_dir or --pretrain_ckpt) have
# their own; a copy of the released one needs --dictionary, too.
#
# The threshold of 0.5 gives false positives: training weights positive labels 12 times, so even
# odds are 0.92. With --probabilities=corrected, they are 0.5.
#
# Writes label_pred.txt and an HTML page: for each image, best first, the classes above the
# threshold, without ancestors of other classes above it.
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

# shellcheck disable=SC2086 # LAUNCH may be several words
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
