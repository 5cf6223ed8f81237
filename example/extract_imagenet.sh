#!/usr/bin/env bash
# Extracts the ImageNet part of ML-Images from an archive of the full ImageNet database.
#
#   ARCHIVES=/data/fall11_whole.tar ./example/extract_imagenet.sh
#   ARCHIVES=/data/synsets/ ./example/extract_imagenet.sh --processes 16   # a folder of n*.tar
#
# SPLIT=val extracts the validation images.
#
# Expect in ./data/images/train/: the list's 10,706,941 images in n04310904/ and so on, the list of
# those found (im_list_imagenet.txt), missing.txt and duplicates.txt. About 1.2 TB are read once.
# The same command resumes.
set -euo pipefail

# shellcheck source=example/environment.sh
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/environment.sh"
answer_help data/extract_imagenet.py "$@"
prepare_environment

SPLIT="${SPLIT:-train}"
exec python "$PROJECT_ROOT/data/extract_imagenet.py" \
  --list "$PROJECT_ROOT/data/${SPLIT}_image_id_from_imagenet.txt" \
  --output "./data/images/$SPLIT/" \
  --im_list "./data/images/$SPLIT/im_list_imagenet.txt" \
  --archives "${ARCHIVES:?set it to a tar or folder of ImageNet, see the top of this script}" \
  "$@"
