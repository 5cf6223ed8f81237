#!/usr/bin/env bash
# Makes a page to browse the training list: class tree, counts, images, co-occurring labels.
#
#   ./example/browse.sh
#   ./example/browse.sh --thumbnails 5000 --output ./out/browse.html    # one file
#
# Expect: ./out/browse/index.html, which opens from disk. Missing images are counted and skipped. A
# million rows of 11,166 classes take four minutes on two cores.
set -euo pipefail

# shellcheck source=example/environment.sh
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/environment.sh"
answer_help data/browse.py "$@"
prepare_environment

exec python "$PROJECT_ROOT/data/browse.py" \
  --list ./data/train_im_list.txt \
  --images ./data/images/train/ \
  --dictionary "$PROJECT_ROOT/data/dictionary_and_semantic_hierarchy.txt" \
  --output ./out/browse/ \
  --per_class 8 \
  --thumbnails 20000 \
  --seed 1234 \
  "$@"
