#!/usr/bin/env bash
# Statistics of the lists, and a check of every row: format, repetitions, overlap, ancestors.
#
#   ./example/label_statistics.sh
#   ./example/label_statistics.sh --allow duplicate overlap   # findings that are no failure
#
# Expect of the released lists: 17,609,752 training and 88,739 validation images, 11,166 classes, of
# which 10,505 have over 100 images; 8.72 labels per image; 4 trees, longest path 16 edges.
# Plots and CSV files are in ./out/statistics/. Exit code 1: something is wrong, see the output.
set -euo pipefail

# shellcheck source=example/environment.sh
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/environment.sh"
answer_help data/label_statistics.py "$@"
prepare_environment

exec python "$PROJECT_ROOT/data/label_statistics.py" \
  --train ./data/train_im_list.txt \
  --val ./data/val_im_list.txt \
  --dictionary "$PROJECT_ROOT/data/dictionary_and_semantic_hierarchy.txt" \
  --output ./out/statistics/ \
  --min_images 100 \
  "$@"
