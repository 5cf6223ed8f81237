#!/usr/bin/env bash
# Downloads Open Images by id from the public bucket, because most Flickr originals are gone.
#
#   IDS=train-images-boxable-with-rotation.csv ./example/download_by_id.sh
#   IDS=ids.txt ./example/download_by_id.sh --url_template 'https://my.mirror/train/{id}.jpg'
#
# IDS          the data set's CSV of image ids, or a list (one `train/ID` per row)
# ANNOTATIONS  the list that provides the labels, joined by id or by the CSV's original URL
#
# Expect: images named by id in ./data/openimages/, and their list with labels, im_list.txt. The
# bucket has the 1.9 million Open Images with boxes (561 GB before --short_side); other ids fail
# with http_403 or http_404.
set -euo pipefail

# shellcheck source=example/environment.sh
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/environment.sh"
answer_help data/download_urls_multithreading.py "$@"
prepare_environment

exec python "$PROJECT_ROOT/data/download_urls_multithreading.py" \
  --image_ids "${IDS:?give the CSV or list of ids, e.g. IDS=ids.csv $0}" \
  --annotations "${ANNOTATIONS:-$PROJECT_ROOT/data/train_urls_from_openimages.txt}" \
  --url_template 'https://s3.amazonaws.com/open-images-dataset/{subset}/{id}.jpg' \
  --save_dir ./data/openimages/ \
  --num_threads 64 \
  --short_side 256 \
  "$@"
