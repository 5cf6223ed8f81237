# shellcheck shell=bash
# Sourced, not run. Creates or reuses the virtual environment .venv at the project root and puts it
# first on PATH:
#
#   source example/environment.sh
#   prepare_environment demo test     # extras of setup.py; TensorFlow's wheel is chosen here
#
# A marker file per extra and content of setup.py records what is installed, so that later runs
# install nothing, and interrupted ones continue where they stopped.
#
# PYTHON=/path/to/python3.x  the interpreter for a new .venv (default: the first suitable on PATH)
# TENSORFLOW=cpu|gpu         the wheel (default: the one in .venv; in a new .venv, gpu if nvidia-smi
#                            lists a GPU)

case "${BASH_VERSION:+bash}$-" in
  bash*i* | "$-") # `set -e` would close an interactive shell; other shells are not supported
    echo "error: environment.sh is for bash scripts; in a shell, run example/quickstart.sh," \
      "which makes .venv, and then: . .venv/bin/activate" >&2
    return 1
    ;;
esac
set -euo pipefail

PROJECT_ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
VENV="$PROJECT_ROOT/.venv"

is_suitable_python() {
  "$1" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' 2> /dev/null
}

find_python() {
  local candidate candidates=(python3 python3.13 python3.12 python3.11 python3.10 python)
  [[ -z "${PYTHON:-}" ]] || candidates=("$PYTHON")
  for candidate in "${candidates[@]}"; do
    if is_suitable_python "$candidate"; then
      echo "$candidate"
      return
    fi
  done
  echo "error: no Python 3.10 to 3.13 found (TensorFlow needs one of them);" \
    "install one, or name it: PYTHON=/path/to/python3.11 $0" >&2
  return 1
}

has_gpu() {
  nvidia-smi --list-gpus 2> /dev/null | grep -q '^GPU'
}

# Keeps the wheel in .venv: cluster nodes may share it, and Horovod is built against it.
find_tensorflow() {
  local packages="$VENV/lib/python3.*/site-packages"
  if [[ -n "${TENSORFLOW:-}" ]]; then
    echo "$TENSORFLOW"
  elif compgen -G "$packages/tensorflow_cpu-*.dist-info" > /dev/null; then
    echo cpu
    ! has_gpu || echo "note: this machine has a GPU, but .venv has the CPU build of TensorFlow;" \
      "to change that: TENSORFLOW=gpu $0" >&2
  elif compgen -G "$packages/tensorflow-[0-9]*.dist-info" > /dev/null || has_gpu; then
    echo gpu
  else
    echo cpu
  fi
}

make_venv() {
  local python
  if is_suitable_python "$VENV/bin/python"; then
    "$VENV/bin/python" -m pip --version &> /dev/null \
      || "$VENV/bin/python" -m ensurepip --upgrade # an earlier run was interrupted
  elif "$VENV/bin/python" --version &> /dev/null; then
    echo "error: $VENV has $("$VENV/bin/python" --version), but TensorFlow needs" \
      "Python 3.10 to 3.13; move or delete $VENV" >&2
    return 1
  else
    python="$(find_python)"
    echo "== making $VENV with $("$python" --version)"
    "$python" -m venv --clear "$VENV" || {
      echo "error: $python cannot make a virtual environment; on Debian and Ubuntu:" \
        "apt-get install python3-venv" >&2
      return 1
    }
  fi
}

# Both TensorFlow wheels own the same files, so the other one must be removed first.
remove_other_tensorflow() {
  local mark other
  case "$1" in
    gpu) mark=cpu other=tensorflow-cpu ;;
    cpu) mark=gpu other=tensorflow ;;
    *)
      echo "error: TENSORFLOW=$1: must be cpu or gpu" >&2
      return 1
      ;;
  esac
  rm -f "$VENV/.ready-$mark-"* # first, because the uninstall may be interrupted
  "$VENV/bin/python" -m pip uninstall -qq --yes "$other"
}

# The marker file of NAME for this TensorFlow and this content of setup.py.
ready_file() {
  echo "$VENV/.ready-$TENSORFLOW-$1-$(cksum < "$PROJECT_ROOT/setup.py" | tr ' ' '-')"
}

prepare_environment() {
  local extra extras missing=()
  TENSORFLOW="$(find_tensorflow)"
  extras=("$TENSORFLOW" "$@")
  make_venv
  for extra in "${extras[@]}"; do
    [[ -e "$(ready_file "$extra")" ]] || missing+=("$extra")
  done
  if ((${#missing[@]})); then
    echo "== installing ${missing[*]} into $VENV (a minute or two the first time)"
    remove_other_tensorflow "$TENSORFLOW"
    (cd "$PROJECT_ROOT" && "$VENV/bin/python" -m pip install --quiet --editable \
      ".[$(IFS=,; echo "${extras[*]}")]")
    for extra in "${extras[@]}"; do
      touch "$(ready_file "$extra")"
    done
  fi
  export PATH="$VENV/bin:$PATH" VIRTUAL_ENV="$VENV"
  export PYTHONUTF8=1 # see data/common/command.py
  export TF_ENABLE_ONEDNN_OPTS="${TF_ENABLE_ONEDNN_OPTS:-1}" # see data/common/start_tensorflow.py
  export TF_CPP_MIN_LOG_LEVEL="${TF_CPP_MIN_LOG_LEVEL:-2}" # hides TensorFlow's own messages
}

# If --help is among a script's arguments, prints the comment at its top and, if .venv exists, the
# flags of its Python script ("": none), and exits. Installs nothing.
answer_help() {
  local python_script="$1"
  shift
  [[ " $* " == *" --help "* ]] || return 0
  awk 'NR > 1 && !/^#/ { exit } NR > 1 { sub(/^# ?/, ""); print }' "$0"
  if [[ -n "$python_script" && -x "$VENV/bin/python" ]]; then
    printf '\n== flags of %s\n\n' "$python_script"
    "$VENV/bin/python" "$PROJECT_ROOT/$python_script" --help || true # .venv may be incomplete
  fi
  exit 0
}

# The same for a script whose arguments are a command: prints its own help or the command's.
answer_help_of_job() {
  [[ "${1:-}" != --help ]] || answer_help "" --help
  while [[ "${1:-}" == --*=* ]]; do
    shift
  done
  [[ " $* " != *" --help "* ]] || exec "$@"
}
