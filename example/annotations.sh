#!/usr/bin/env bash
# Annotates a list as in the paper: vocabulary, co-occurring labels, all ancestors.
#
#   ./example/annotations.sh
#   PREDICTIONS=out/label_pred.txt ./example/annotations.sh   # also adds co-occurring labels
#
# PREDICTIONS is the output of image_classification.py for images of this list, from a model with
# other labels (in the paper, 1,134 of Open Images), with --top_k_pred high enough for all labels
# above 0.95; PREDICTION_DICTIONARY has that model's classes. A label found in over half of a
# class's images is added to all of them, unless a hierarchy path joins the label and the class.
#
# Expect: ./data/train_annotated.txt with the same rows and, with PREDICTIONS, ./data/train_co.tsv
# with the co-occurrence matrix; 17.6 million rows take a few minutes on two cores. Then:
#   data/tfrecord.sh --indexs data/train_annotated.txt --tfrecords data/train_annotated/
set -euo pipefail

# shellcheck source=example/environment.sh
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/environment.sh"
answer_help data/annotations.py "$@"
prepare_environment

options=()
if [[ -n "${PREDICTIONS:-}" ]]; then
  options+=(--predictions "$PREDICTIONS" --save_co_matrix ./data/train_co.tsv)
  options+=(--posterior 0.95 --co_threshold 0.5)
fi
if [[ -n "${PREDICTION_DICTIONARY:-}" ]]; then
  options+=(--prediction_dictionary "$PREDICTION_DICTIONARY")
fi

exec python "$PROJECT_ROOT/data/annotations.py" \
  --list ./data/train_im_list.txt \
  --output ./data/train_annotated.txt \
  --dictionary "$PROJECT_ROOT/data/dictionary_and_semantic_hierarchy.txt" \
  --ancestors \
  "${options[@]}" \
  "$@"
