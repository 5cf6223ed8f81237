#!/usr/bin/env bash
# Selects a subset of ML-Images that one machine can train on.
#
#   ./example/subset.sh                          # 100 images per class: --per_class 100
#   ./example/subset.sh --classes dog --descendants --per_class 500
#   ./example/subset.sh --count 1000000 --stratified
#
# Any argument replaces --per_class 100.
#
# An image counts only for its most specific classes: a poodle is not an example of `animal`. The
# same seed selects the same rows.
#
# Expect: ./data/train_subset.txt with about a million rows, in a few minutes on two cores. Then:
#   data/tfrecord.sh --indexs data/train_subset.txt --tfrecords data/train_subset/
#   example/train.sh --data_dir=data/train_subset/
set -euo pipefail

# shellcheck source=example/environment.sh
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/environment.sh"
answer_help data/subset.py "$@"
prepare_environment

(($#)) || set -- --per_class 100
exec python "$PROJECT_ROOT/data/subset.py" \
  --list ./data/train_im_list.txt \
  --output ./data/train_subset.txt \
  --dictionary "$PROJECT_ROOT/data/dictionary_and_semantic_hierarchy.txt" \
  --seed 1234 \
  "$@"
