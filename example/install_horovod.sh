#!/usr/bin/env bash
# Builds Horovod 0.28.1 against the TensorFlow in .venv, with Gloo and MPI, and checks that the
# build holds what was asked for. About two minutes on two cores; needs g++ and cmake.
# A second start finds the working build and does nothing.
#
#   ./example/install_horovod.sh [more pip options]
#
# Expected: horovodrun --check-build marks TensorFlow, MPI and Gloo with [X].

set -euo pipefail
# shellcheck source=example/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
prepare_environment horovod mpi

HOROVOD=horovod==0.28.1

is_built() {
  local report
  report="$(horovodrun --check-build 2> /dev/null)" || return 1
  for part in TensorFlow MPI Gloo; do
    grep -qF "[X] $part" <<< "$report" || return 1
  done
  python -c 'import horovod.tensorflow' &> /dev/null # built against the TensorFlow that is here
}

build() {
  HOROVOD_WITH_TENSORFLOW=1 HOROVOD_WITHOUT_PYTORCH=1 HOROVOD_WITHOUT_MXNET=1 \
    HOROVOD_WITH_GLOO=1 HOROVOD_WITH_MPI=1 \
    python -m pip install --quiet --no-build-isolation --force-reinstall --no-deps "$@" "$HOROVOD"
}

mark_done() {
  touch "$(ready_file horovod-build)"
  exit 0
}

[[ ! -e "$(ready_file horovod-build)" ]] || exit 0
! is_built || mark_done
for tool in g++ cmake; do
  command -v "$tool" > /dev/null || {
    echo "error: building Horovod needs $tool; on Debian and Ubuntu: apt-get install $tool" >&2
    exit 1
  }
done
echo "== building Horovod (about two minutes on two cores)"
build "$@"
! is_built || mark_done
# pip may have taken a wheel from its cache that was built with other options or another TensorFlow.
build --no-cache-dir "$@"
! is_built || mark_done
horovodrun --check-build >&2 || true
echo "error: Horovod was built without TensorFlow, MPI or Gloo (see the list above)" >&2
exit 1
