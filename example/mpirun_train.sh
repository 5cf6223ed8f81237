#!/usr/bin/env bash
# Runs a recipe with mpirun only, for clusters where Open MPI is the launcher.
#
#   NP=16 HOSTS=node1:8,node2:8 example/mpirun_train.sh example/train.sh [flags]
#
# NP, HOSTS, NIC and MPI_ARGS are those of example/mpirun.sh.
#
# Expect: the log lines of a single process. If a worker dies, mpirun reports its rank and ends the
# job; the same command resumes. SIGTERM and Ctrl-C save a checkpoint first.
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
