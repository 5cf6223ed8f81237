# shellcheck shell=bash
# Sourced, not run. Sets LAUNCH to an mpirun command for the Python in .venv:
#
#   source example/mpirun.sh
#   use_mpirun
#
# NP=2        processes to start
# HOSTS=      machine:processes,... (default: this machine)
# NIC=        network interface between the machines, if there is more than one
# MPI_ARGS=   additional options of mpirun

set -euo pipefail

use_mpirun() {
  local mpirun=mpirun variable launch
  NP="${NP:-2}"
  # With its full path, mpirun also finds its own files on the other machines.
  [[ -z "${HOSTS:-}" ]] || mpirun="$(command -v mpirun)"
  # Not bound to cores, because a process decodes images on many; fills machines one after another.
  launch=("$mpirun" -np "$NP" -H "${HOSTS:-localhost:$NP}" --bind-to none --map-by slot)
  export NCCL_DEBUG="${NCCL_DEBUG:-WARN}" TF_GPU_THREAD_MODE="${TF_GPU_THREAD_MODE:-gpu_private}"
  export LD_LIBRARY_PATH="${LD_LIBRARY_PATH:-}"
  for variable in PATH VIRTUAL_ENV LD_LIBRARY_PATH NCCL_DEBUG TF_GPU_THREAD_MODE; do
    launch+=(-x "$variable")
  done
  launch+=(-x ML_IMAGES_STOP_FILE) # job.sh sets it before mpirun starts
  if [[ -n "${NIC:-}" ]]; then
    launch+=(--mca btl_tcp_if_include "$NIC" -x "NCCL_SOCKET_IFNAME=$NIC")
  fi
  [[ "$(id -u)" != 0 ]] || launch+=(--allow-run-as-root)
  export LAUNCH="${launch[*]} ${MPI_ARGS:-} python"
}
