#!/usr/bin/env bash
# Computes statistics of the lists and checks every row: format, duplicates, overlap, ancestors.
#
#   ./example/label_statistics.sh
#   ./example/label_statistics.sh --allow duplicate overlap   # findings that are not failures
#
# Expect for the released lists: 17,609,752 training and 88,739 validation images, 11,166 classes
# (10,505 with over 100 images), 8.72 labels per image, 4 trees, longest path 16 edges.
# Plots and CSV files go to ./out/statistics/. Exit code 1: a check failed, see the output.
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
