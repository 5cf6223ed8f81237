#!/usr/bin/env bash
# Converts a list to TFRecord shards with MPI ranks, on one machine or many with a shared folder.
#
#   NP=4 ./example/tfrecord_mpirun.sh
#   NP=64 HOSTS=node1:32,node2:32 ./example/tfrecord_mpirun.sh --indexs list.txt --images images/
#                                                                       see example/mpirun.sh
#
# Every rank makes every NP-th shard; the shards, and the manifest that rank 0 writes in the end,
# are byte for byte those of ./data/tfrecord.sh in one process. Machines without MPI share the work
# by `./data/tfrecord.sh --part 0/8`, 1/8 and so on, and one run without --part in the end.
#
# Expect: the files of ./data/tfrecord.sh, NP times as fast while disk and network keep up.
set -euo pipefail

# shellcheck source=example/environment.sh
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/environment.sh"
answer_help data/tfrecord.py "$@"
# shellcheck source=example/mpirun.sh
source "$PROJECT_ROOT/example/mpirun.sh"
prepare_environment mpi
use_mpirun

exec "$PROJECT_ROOT/data/tfrecord.sh" "$@"
