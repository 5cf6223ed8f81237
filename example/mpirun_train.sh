#!/usr/bin/env bash
# Runs a recipe under mpirun alone, for clusters where Open MPI is the launcher.
#
#   NP=16 HOSTS=node1:8,node2:8 example/mpirun_train.sh example/train.sh [flags]
#
# NP, HOSTS, NIC and MPI_ARGS are those of example/mpirun.sh.
#
# Expect: the lines of a single process. When a worker dies, mpirun names its rank and ends the job;
# the same command again resumes. SIGTERM and Ctrl-C save a checkpoint first.
set -euo pipefail

# shellcheck source=example/environment.sh
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/environment.sh"
answer_help_of_job "$@"
# shellcheck source=example/mpirun.sh
source "$PROJECT_ROOT/example/mpirun.sh"
# shellcheck source=example/job.sh
source "$PROJECT_ROOT/example/job.sh"
"$PROJECT_ROOT/example/install_horovod.sh"
prepare_environment horovod mpi
use_mpirun

run_job "$@"
