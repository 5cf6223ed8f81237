#!/usr/bin/env bash
# Builds Horovod 0.28.1 against the TensorFlow in .venv, with Gloo and MPI, and with NCCL for the
# GPU build of TensorFlow. Then checks that Horovod has these parts, and that two processes can sum
# a tensor. Takes about two minutes on two cores (ten with NCCL); needs g++ and cmake, and for NCCL
# CUDA's nvcc. If a working build exists, does nothing.
#
#   example/install_horovod.sh [more pip options]
#   TENSORFLOW=gpu example/install_horovod.sh       builds for GPUs on a machine without one
#
# CUDA_HOME=/usr/local/cuda   folder with bin/nvcc; CUDA 12.x as in TensorFlow's wheel, or newer
# NCCL_HOME=                  folder with NCCL's include and lib (default: in TensorFlow's wheel)
# NCCL=yes|no                 default: yes if .venv has the GPU build of TensorFlow
#
# Expect: horovodrun --check-build marks TensorFlow, MPI, Gloo and, if requested, NCCL with [X].
set -euo pipefail

# shellcheck source=example/environment.sh
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/environment.sh"
answer_help "" "$@"
prepare_environment horovod mpi

HOROVOD=horovod==0.28.1
PARTS=(TensorFlow MPI Gloo)
if [[ "${NCCL:-$([[ "$TENSORFLOW" != gpu ]] || echo yes)}" == yes ]]; then
  PARTS+=(NCCL)
fi
# One marker file per choice, so that requesting NCCL later rebuilds.
DONE="$(ready_file "horovod-build-${#PARTS[@]}")"

is_built() {
  local report part
  problem="it does not load"
  report="$(horovodrun --check-build 2> /dev/null)" || return 1
  for part in "${PARTS[@]}"; do
    problem="it lacks $part"
    grep -qF "[X] $part" <<< "$report" || return 1
  done
  adds_up
}

# Also checks that Horovod was built against the installed TensorFlow; otherwise it does not load.
adds_up() {
  local output program="
import horovod.tensorflow as hvd, tensorflow as tf
hvd.init()
print('the sum is', int(hvd.allreduce(tf.constant(hvd.rank() + 1), op=hvd.Sum)))"
  output="$(horovodrun -np 2 --gloo -H localhost:2 python -c "$program" 2>&1)" || true
  problem="two processes do not add up: $(tail -n 1 <<< "$output")"
  (($(grep -c 'the sum is 3' <<< "$output") == 2))
}

need() {
  command -v "$1" > /dev/null || {
    echo "error: building Horovod needs $1; $2" >&2
    exit 1
  }
}

# Sets the variables about CUDA and NCCL that Horovod's build reads.
use_nccl() {
  export HOROVOD_CUDA_HOME="${CUDA_HOME:-/usr/local/cuda}" HOROVOD_GPU_OPERATIONS=NCCL
  export PATH="$HOROVOD_CUDA_HOME/bin:$PATH"
  need nvcc "install CUDA's compiler, set its folder (CUDA_HOME=...), or build without it (NCCL=no)"
  local home="${NCCL_HOME:-$(python -c 'import nvidia.nccl; print(nvidia.nccl.__path__[0])')}"
  if [[ ! -e "$home/lib/libnccl.so" ]]; then
    ln -s libnccl.so.2 "$home/lib/libnccl.so" # the wheel lacks the name that linkers expect
  fi
  export HOROVOD_NCCL_INCLUDE="$home/include" HOROVOD_NCCL_LIB="$home/lib" HOROVOD_NCCL_LINK=SHARED
}

# Unpacks Horovod's source with two changes that TensorFlow newer than 2.18 needs:
# * Removes the XLA adapter, which does not compile because headers that it includes have moved. It
#   is used only with HOROVOD_ENABLE_XLA_OPS=1, which nothing here sets.
# * Gets the GPU stream through TensorFlow's header, because TensorFlow's library no longer has the
#   function that returned it: without this change, a GPU build compiles but does not load.
unpack_source() {
  # No build isolation: Horovod's setup.py imports the TensorFlow in .venv.
  python -m pip download --quiet --no-binary :all: --no-deps --no-build-isolation \
    --dest "$1" "$HOROVOD"
  tar -xzf "$1"/horovod-*.tar.gz -C "$1" --strip-components=1
  sed -i '/xla_mpi_ops\.cc/d' "$1/horovod/tensorflow/CMakeLists.txt"
  sed -i -e '/^GpuStreamHandle AsGpuStreamValue(Stream\* stream);/d' \
    -e '/^#endif \/\/ TENSORFLOW_VERSION >= 2011000000/a\
namespace stream_executor { namespace gpu {\
inline GpuStreamHandle AsGpuStreamValue(Stream* stream) {\
  return static_cast<GpuStreamHandle>(stream->platform_specific_handle().stream);\
}}}' "$1/horovod/tensorflow/mpi_ops.cc"
}

build() {
  local source
  source="$(mktemp -d)"
  # shellcheck disable=SC2064 # expand the folder now
  trap "rm -rf '$source'" EXIT
  unpack_source "$source"
  # CMake 4 rejects projects as old as Horovod unless policy version 3.5 is allowed.
  CMAKE_POLICY_VERSION_MINIMUM=3.5 \
    HOROVOD_WITH_TENSORFLOW=1 HOROVOD_WITHOUT_PYTORCH=1 HOROVOD_WITHOUT_MXNET=1 \
    HOROVOD_WITH_GLOO=1 HOROVOD_WITH_MPI=1 \
    python -m pip install --quiet --no-build-isolation --force-reinstall --no-deps --no-cache-dir \
    "$@" "$source"
}

mark_done() {
  touch "$DONE"
  exit 0
}

[[ ! -e "$DONE" ]] || exit 0
! is_built || mark_done
need g++ "on Debian and Ubuntu: apt-get install g++"
need cmake "on Debian and Ubuntu: apt-get install cmake"
[[ "${PARTS[*]}" != *NCCL* ]] || use_nccl
echo "== building Horovod with ${PARTS[*]} (minutes), without its XLA adapter: that does not" \
  "compile against TensorFlow 2.19 or newer, and nothing here uses it"
build "$@"
! is_built || mark_done
horovodrun --check-build >&2 || true
echo "error: Horovod was built, but $problem (see the list above)" >&2
exit 1
