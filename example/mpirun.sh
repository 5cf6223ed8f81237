# shellcheck shell=bash
# Sourced, not run. Sets LAUNCH to an mpirun of the Python in .venv:
#
#   source example/mpirun.sh
#   use_mpirun
#
# NP=2        processes to start
# HOSTS=      machine:processes,... (default: this machine)
# NIC=        network interface between the machines, when there are several
# MPI_ARGS=   further options of mpirun

set -euo pipefail

use_mpirun() {
  local mpirun=mpirun variable launch
  NP="${NP:-2}"
  # By its full path mpirun finds its own parts on the other machines, too.
  [[ -z "${HOSTS:-}" ]] || mpirun="$(command -v mpirun)"
  # Unbound, because a process decodes images on many cores; a worker a slot, machine after machine.
  launch=("$mpirun" -np "$NP" -H "${HOSTS:-localhost:$NP}" --bind-to none --map-by slot)
  export NCCL_DEBUG="${NCCL_DEBUG:-WARN}" TF_GPU_THREAD_MODE="${TF_GPU_THREAD_MODE:-gpu_private}"
  export LD_LIBRARY_PATH="${LD_LIBRARY_PATH:-}"
  for variable in PATH VIRTUAL_ENV LD_LIBRARY_PATH NCCL_DEBUG TF_GPU_THREAD_MODE; do
    launch+=(-x "$variable")
  done
  launch+=(-x ML_IMAGES_STOP_FILE) # of job.sh, which sets it before mpirun starts
  if [[ -n "${NIC:-}" ]]; then
    launch+=(--mca btl_tcp_if_include "$NIC" -x "NCCL_SOCKET_IFNAME=$NIC")
  fi
  [[ "$(id -u)" != 0 ]] || launch+=(--allow-run-as-root)
  export LAUNCH="${launch[*]} ${MPI_ARGS:-} python"
}
