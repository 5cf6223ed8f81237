#!/usr/bin/env bash
# Runs a recipe in several processes, one per GPU (on CPUs, as many as you set).
#
#   NP=8 example/train_distributed.sh example/train.sh                        # this machine
#   NP=16 HOSTS=node1:8,node2:8 example/train_distributed.sh --restarts=5 \
#     example/finetune.sh --precision=float16                                 # over ssh
#   NP=8 MIN_NP=4 MAX_NP=16 DISCOVERY=./hosts.sh example/train_distributed.sh \
#     example/train.sh                                                        # elastic
#
# --restarts=N     restart up to N times after a failure, resuming from the latest checkpoint
# NP=2             processes to start
# HOSTS=           machine:processes,...; needs the project and .venv at the same path on each
#                  machine, and ssh without a password (default: this machine)
# CONTROLLER=gloo  how the processes find each other: gloo, or mpi (with mpirun_train.sh, because
#                  horovodrun 0.28 does not support the options of Open MPI 5)
# NIC=             network interfaces between the machines, comma-separated (default: detected)
# DISCOVERY=       script that prints machine:processes lines, run every second: the job continues
#                  on the machines listed, with MIN_NP (1) to MAX_NP processes; needs --global_batch
#
# Expect: the log lines of rank 0, as in a single process. A worker that dies is reported (Process 3
# exit with status code 137) and ends the job within seconds; an elastic job continues without it.
# SIGTERM and Ctrl-C save a checkpoint first (exit codes 143 and 130); the same command resumes.
set -euo pipefail

# shellcheck source=example/environment.sh
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/environment.sh"
answer_help_of_job "$@"
# shellcheck source=example/job.sh
source "$PROJECT_ROOT/example/job.sh"

restarts=0
if [[ "${1:-}" == --restarts=* ]]; then
  restarts="${1#*=}"
  shift
fi
if [[ ! "$restarts" =~ ^[0-9]+$ || $# -eq 0 ]]; then
  echo "error: use it as in NP=8 $0 --restarts=3 example/train.sh" >&2
  exit 1
fi

"$PROJECT_ROOT/example/install_horovod.sh"
prepare_environment horovod mpi

NP="${NP:-2}"
if [[ "${CONTROLLER:-gloo}" == mpi ]]; then
  set -- "$PROJECT_ROOT/example/mpirun_train.sh" "$@"
fi
launch=(horovodrun -np "$NP" --gloo)
if [[ -n "${NIC:-}" ]]; then
  launch+=(--network-interfaces "$NIC")
fi
if [[ -n "${DISCOVERY:-}" ]]; then
  launch+=(--min-np "${MIN_NP:-1}" --max-np "${MAX_NP:-$NP}" --host-discovery-script "$DISCOVERY")
else
  launch+=(-H "${HOSTS:-localhost:$NP}")
fi
export LAUNCH="${launch[*]} python"

# NCCL finds InfiniBand by itself; over Ethernet it needs the interface.
export NCCL_DEBUG="${NCCL_DEBUG:-WARN}"
[[ -z "${NIC:-}" ]] || export NCCL_SOCKET_IFNAME="${NCCL_SOCKET_IFNAME:-$NIC}"
# Dedicated threads launch a GPU's kernels, instead of those that decode images.
export TF_GPU_THREAD_MODE="${TF_GPU_THREAD_MODE:-gpu_private}"
# A machine that does not answer for this many seconds counts as dead.
export HOROVOD_GLOO_TIMEOUT_SECONDS="${HOROVOD_GLOO_TIMEOUT_SECONDS:-30}"

for ((start = 0; start <= restarts; start++)); do
  ((start == 0)) || echo "== restart $start of $restarts, after exit code $status" >&2
  status=0
  run_job "$@" || status=$?
  ((status != 0)) && [[ -z "$JOB_STOPPED" ]] || break
done
exit "$status"
