# shellcheck shell=bash
# Sourced, not run. Runs a distributed job so that SIGTERM and Ctrl-C let it save a checkpoint:
#
#   source "$PROJECT_ROOT/example/job.sh"
#   run_job COMMAND...      # returns its exit code, or 128 + the signal that stopped it
#
# horovodrun and mpirun kill their processes seconds after a signal, in the middle of a step or a
# checkpoint. So signals do not reach them: the command runs in its own process group, and a signal
# creates the file ML_IMAGES_STOP_FILE, which the workers check after each step. They agree to stop,
# save and exit. A second signal ends the job at once.

set -euo pipefail

job_signal() {
  if [[ -e "$ML_IMAGES_STOP_FILE" ]]; then
    kill -TERM -- "-$JOB" 2> /dev/null || true
    return
  fi
  JOB_STOPPED="$1"
  : > "$ML_IMAGES_STOP_FILE"
  echo "== stopping: the job saves a checkpoint after this step; signal again to stop at once" >&2
}

run_job() {
  local folder="$PWD" status=0
  # The working folder, because the job's other machines may share it.
  [[ -w "$folder" ]] || folder="${TMPDIR:-/tmp}"
  if [[ -z "${ML_IMAGES_STOP_FILE:-}" ]]; then # otherwise an outer script handles the signals
    ML_IMAGES_STOP_FILE="$folder/.stop-$(uname -n)-$$"
    # shellcheck disable=SC2064 # expand the name now
    trap "rm -f '$ML_IMAGES_STOP_FILE'" EXIT
  fi
  export ML_IMAGES_STOP_FILE
  JOB_STOPPED=
  set -m # gives the command its own process group
  "$@" &
  JOB=$!
  trap 'job_signal 2' INT
  trap 'job_signal 15' TERM
  while true; do # a signal ends the wait, not the job
    status=0
    wait "$JOB" || status=$?
    kill -0 "$JOB" 2> /dev/null || break
  done
  trap - INT TERM
  set +m
  [[ -z "$JOB_STOPPED" ]] || status=$((128 + JOB_STOPPED))
  return "$status"
}
