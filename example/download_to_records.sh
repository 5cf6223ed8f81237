#!/usr/bin/env bash
# Downloads a list of URLs directly to TFRecord shards, with MPI ranks on one or more machines.
#
#   ./example/download_to_records.sh --url_list urls.txt
#   NP=16 HOSTS=node1:8,node2:8 ./example/download_to_records.sh     # see example/mpirun.sh
#
# Without MPI, split a list among machines with --part 0/8, 1/8 and so on; then merge their folders
# and run once without --part. --host_limit applies to each rank separately.
#
# Expect: ./data/train/*.tfrecords with images of short side 256 (about 25 kB each), and
# manifest.json with the rows, bytes and SHA-256 of each shard, checked by `data/tfrecord.sh
# --verify`; no image files.
set -euo pipefail

# shellcheck source=example/environment.sh
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/environment.sh"
answer_help data/download_urls_multithreading.py "$@"
# shellcheck source=example/mpirun.sh
source "$PROJECT_ROOT/example/mpirun.sh"
prepare_environment mpi
use_mpirun

# shellcheck disable=SC2086 # LAUNCH may be several words
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
