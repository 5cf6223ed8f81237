#!/usr/bin/env bash
# Annotates a list as the paper did: vocabulary, labels that go together, all ancestors.
#
#   ./example/annotations.sh
#   PREDICTIONS=out/label_pred.txt ./example/annotations.sh   # and co-occurrence, see below
#
# PREDICTIONS is what image_classification.py wrote for images of this list with a model of other
# labels (the paper: 1,134 of Open Images), with --top_k_pred high enough for all labels above
# 0.95; PREDICTION_DICTIONARY are the classes of that model. A label that is seen in over half of a
# class's images is added to all of them, unless the hierarchy joins the two.
#
# Expect: ./data/train_annotated.txt with the same rows; ./data/train_co.tsv with the co-occurrence
# matrix if there are predictions; 17.6 million rows take a few minutes on two cores. Then:
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
