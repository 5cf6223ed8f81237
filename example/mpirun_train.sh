#!/usr/bin/env bash
# Runs a recipe under mpirun alone, for clusters where Open MPI is the launcher.
#
#   NP=16 HOSTS=node1:8,node2:8 example/mpirun_train.sh example/train.sh [flags]
#
# NP=2        processes to start
# HOSTS=      machine:processes,... (default: this machine)
# NIC=        network interface between the machines, when there are several
# MPI_ARGS=   further options of mpirun; as root in a container: --allow-run-as-root
#
# Expect: the lines of a single process. When a worker dies, mpirun names its rank and ends the job;
# the same command again resumes.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=example/environment.sh
source example/environment.sh
example/install_horovod.sh
prepare_environment horovod mpi

NP="${NP:-2}"
# Unbound, because a process decodes images on many cores; a worker a slot, machine after machine.
launch=(mpirun -np "$NP" -H "${HOSTS:-localhost:$NP}" --bind-to none --map-by slot)
for variable in PATH VIRTUAL_ENV LD_LIBRARY_PATH NCCL_DEBUG TF_GPU_THREAD_MODE; do
  launch+=(-x "$variable")
done
if [[ -n "${NIC:-}" ]]; then
  launch+=(--mca btl_tcp_if_include "$NIC" -x "NCCL_SOCKET_IFNAME=$NIC")
fi
export NCCL_DEBUG="${NCCL_DEBUG:-WARN}" TF_GPU_THREAD_MODE="${TF_GPU_THREAD_MODE:-gpu_private}"
export LD_LIBRARY_PATH="${LD_LIBRARY_PATH:-}"
export LAUNCH="${launch[*]} ${MPI_ARGS:-} python"

exec "$@"
