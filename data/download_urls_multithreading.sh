#!/usr/bin/env bash
# Downloads a list of URLs, with every setting spelled out.
#
#   ./data/download_urls_multithreading.sh                       # the Open Images part of ML-Images
#   SPLIT=val ./data/download_urls_multithreading.sh             # of its validation images
#   ./data/download_urls_multithreading.sh --dry_run             # a sample: how much disk and time
#   ./data/download_urls_multithreading.sh --short_side 256      # flags given here win
#   ./data/download_urls_multithreading.sh --retry_failed        # the failed rows once more
#
# Expect, in ./data/images/train/: images (in 256 folders, if the list has over 100,000 rows), the
# list im_list.txt of downloaded images and invalid_url.txt of failed URLs, both with labels, and
# the counts of failures by reason. The same command again resumes where it stopped. One process
# downloads about 500 images of 60 kB per second on two cores, if the hosts allow.
set -euo pipefail

# shellcheck source=example/environment.sh
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/../example/environment.sh"
answer_help data/download_urls_multithreading.py "$@"
prepare_environment

SPLIT="${SPLIT:-train}"
exec python "$PROJECT_ROOT/data/download_urls_multithreading.py" \
  --url_list "$PROJECT_ROOT/data/${SPLIT}_urls_from_openimages.txt" \
  --im_list "./data/images/$SPLIT/im_list.txt" \
  --save_dir "./data/images/$SPLIT/" \
  --num_threads 64 \
  --host_limit 8 \
  --retries 4 \
  --connect_timeout 10 \
  --read_timeout 20 \
  --time_limit 120 \
  --max_bytes 67108864 \
  --repeated 10 \
  "$@"
