#!/usr/bin/env bash
# Runs a recipe on several processes, one a GPU (on CPUs: as many as you ask for).
#
#   NP=8 example/train_distributed.sh example/train.sh                        # this machine
#   NP=16 HOSTS=node1:8,node2:8 example/train_distributed.sh --restarts=5 \
#     example/finetune.sh --precision=float16                                 # over ssh
#   NP=8 MIN_NP=4 MAX_NP=16 DISCOVERY=./hosts.sh example/train_distributed.sh \
#     example/train.sh                                                        # elastic
#
# --restarts=N     start again up to N times after a failure; a run resumes from its checkpoint
# NP=2             processes to start
# HOSTS=           machine:processes,...; the project and .venv at the same path on each, ssh
#                  without a password (default: this machine)
# CONTROLLER=gloo  what the processes find each other with: gloo, or mpi (by mpirun_train.sh,
#                  because horovodrun 0.28 does not know the options of Open MPI 5)
# NIC=             network interfaces between the machines, comma-separated (default: found out)
# DISCOVERY=       script that prints machine:processes lines, asked every second: the job continues
#                  with those who are there, MIN_NP (1) to MAX_NP of them; it needs --global_batch
#
# Expect: the lines of a single process, of rank 0. A worker that dies is named (Process 3 exit with
# status code 137) and ends the job within seconds; an elastic job continues without it. SIGTERM and
# Ctrl-C save a checkpoint first (exit code 143 and 130); the same command continues from it.
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

# NCCL finds InfiniBand by itself; over Ethernet it needs to know which interface.
export NCCL_DEBUG="${NCCL_DEBUG:-WARN}"
[[ -z "${NIC:-}" ]] || export NCCL_SOCKET_IFNAME="${NCCL_SOCKET_IFNAME:-$NIC}"
# A GPU's kernels are launched by threads of their own, not by those that decode images.
export TF_GPU_THREAD_MODE="${TF_GPU_THREAD_MODE:-gpu_private}"
# After so many seconds a machine that no longer answers counts as dead.
export HOROVOD_GLOO_TIMEOUT_SECONDS="${HOROVOD_GLOO_TIMEOUT_SECONDS:-30}"

for ((start = 0; start <= restarts; start++)); do
  ((start == 0)) || echo "== restart $start of $restarts, after exit code $status" >&2
  status=0
  run_job "$@" || status=$?
  ((status != 0)) && [[ -z "$JOB_STOPPED" ]] || break
done
exit "$status"
