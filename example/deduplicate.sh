#!/usr/bin/env bash
# Finds duplicate images in the training list, and validation images in it (leaks).
#
#   ./example/deduplicate.sh                                       # same names, bytes or pixels
#   ./example/deduplicate.sh --features features.npz               # also near-duplicates
#   ./example/deduplicate.sh --merge_labels                        # keeps labels of duplicates
#
# features.npz is the output of example/extract_feature.sh for the images of the lists. Check
# duplicates.html before you use the lists: the right --threshold depends on the network.
#
# Expect in ./out/unique/: both lists without duplicates, duplicates.tsv with the reason for each,
# and duplicates.html with the pairs of images. Rows = kept + left out.
set -euo pipefail

# shellcheck source=example/environment.sh
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/environment.sh"
answer_help data/deduplicate.py "$@"
prepare_environment neighbors

exec python "$PROJECT_ROOT/data/deduplicate.py" \
  --list ./data/train_im_list.txt \
  --val ./data/val_im_list.txt \
  --images ./data/images/train/ \
  --val_images ./data/images/val/ \
  --output ./out/unique/ \
  --threshold 0.95 \
  "$@"
