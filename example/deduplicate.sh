#!/usr/bin/env bash
# Finds repeated images in the training list, and those of the validation list in it (leaks).
#
#   ./example/deduplicate.sh                                       # same names, bytes or pixels
#   ./example/deduplicate.sh --features features.npz               # near-duplicates, too
#   ./example/deduplicate.sh --merge_labels                        # keeps their labels
#
# features.npz is what example/extract_feature.sh writes for the images of the lists. Look at
# duplicates.html before you use the lists: which --threshold suits depends on the network.
#
# Expect: ./out/unique/ has both lists without the rows that repeat an image, duplicates.tsv with
# the reason for each, and duplicates.html with the images of pairs. Rows = kept + left out.
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
