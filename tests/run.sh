#!/usr/bin/env bash
# Runs the tests; the first start makes .venv and builds Horovod (about four minutes on two cores),
# later ones begin within seconds. Arguments go to pytest:
#
#   ./tests/run.sh                              everything
#   ./tests/run.sh tests/models/test_losses.py -x      one file, stop at the first failure
#   ./tests/run.sh -m "not slow"                what takes about a second each
#   ./tests/run.sh -n 0 --pdb                   in one process, with the debugger
#   EXTRAS=pytorch ./tests/run.sh               exported weights run through PyTorch, too

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=example/environment.sh
source example/environment.sh
answer_help "" "$@"
# shellcheck disable=SC2086 # one word an extra
prepare_environment coco demo export horovod mlflow mpi neighbors test ${EXTRAS:-}
./example/install_horovod.sh

processes="$(nproc)" # asked first: nproc answers OMP_NUM_THREADS where that is set
unset PYTHONDONTWRITEBYTECODE # pytest rewrites the tests' assertions once, not in every process
# Each pytest process runs TensorFlow on one core, so that as many as there are cores do not fight.
export OMP_NUM_THREADS=1 TF_NUM_INTRAOP_THREADS=1 TF_NUM_INTEROP_THREADS=1
# A crash ends the run: pytest-xdist may wait for ever after restarting a process.
exec python -m pytest -n "$processes" --dist loadfile --max-worker-restart 0 "$@"
