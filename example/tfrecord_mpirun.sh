#!/usr/bin/env bash
# Converts a list to TFRecord shards with MPI, on one machine or on several with a shared folder.
#
#   NP=4 ./example/tfrecord_mpirun.sh
#   NP=64 HOSTS=node1:32,node2:32 ./example/tfrecord_mpirun.sh --indexs list.txt --images images/
#                                                                       see example/mpirun.sh
#
# Each rank writes every NP-th shard. The shards, and the manifest that rank 0 writes last, are
# byte-identical to those of ./data/tfrecord.sh in one process. Without MPI, split the work with
# `./data/tfrecord.sh --part 0/8`, 1/8 and so on, and run once without --part at the end.
#
# Expect: the files of ./data/tfrecord.sh, NP times as fast as long as disk and network keep up.
set -euo pipefail

# shellcheck source=example/environment.sh
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/environment.sh"
answer_help data/tfrecord.py "$@"
# shellcheck source=example/mpirun.sh
source "$PROJECT_ROOT/example/mpirun.sh"
prepare_environment mpi
use_mpirun

exec "$PROJECT_ROOT/data/tfrecord.sh" "$@"
