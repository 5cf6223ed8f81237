#!/usr/bin/env bash
# From a list of URLs straight to TFRecord shards, shared among MPI ranks of one or more machines.
#
#   ./example/download_to_records.sh --url_list urls.txt
#   NP=16 HOSTS=node1:8,node2:8 ./example/download_to_records.sh     # see example/mpirun.sh
#
# Machines without MPI share a list by --part 0/8, 1/8 and so on; put their folders into one then,
# and run once without --part. Each rank asks hosts for itself: --host_limit counts for each.
#
# Expect: ./data/train/*.tfrecords with images of short side 256 (about 25 kB each), manifest.json
# with rows, bytes and SHA-256 of each, checked by `data/tfrecord.sh --verify`; no image files.
set -euo pipefail

# shellcheck source=example/environment.sh
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/environment.sh"
answer_help data/download_urls_multithreading.py "$@"
# shellcheck source=example/mpirun.sh
source "$PROJECT_ROOT/example/mpirun.sh"
prepare_environment mpi
use_mpirun

# shellcheck disable=SC2086 # LAUNCH is several words
exec $LAUNCH "$PROJECT_ROOT/data/download_urls_multithreading.py" \
  --url_list "$PROJECT_ROOT/data/train_urls_from_openimages.txt" \
  --save_dir ./data/train/ \
  --tfrecords \
  --shard_size 1024 \
  --kind sparse \
  --num_class 11166 \
  --short_side 256 \
  --quality 95 \
  --num_threads 32 \
  --host_limit 8 \
  "$@"
