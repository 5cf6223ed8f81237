#!/usr/bin/env bash
# The 2,048 features of images, for another program: search, clustering, a small classifier.
#
#   example/extract_feature.sh holiday/                          files, folders, "globs/*.png"
#   example/extract_feature.sh --images=list.txt                 a list: a path a row, maybe a label
#   example/extract_feature.sh --images=data/train/ --result=f.parquet "shards/*.tfrecords"
#   example/extract_feature.sh --layer=stage2 --l2_normalize --feature_type=float16 holiday/
#   LAUNCH="mpirun -n 4 python" example/extract_feature.sh ... shared by 4 processes (or horovodrun)
#
# Flags given to this script come last and win. Paths are relative to where the script is called.
# The same command continues where a killed one stopped, and ends in the same bytes.
#
# Writes features.npz: `features` [N, 2048], `names`, `labels` and `problems` [N], in the order of
# the input; an image that cannot be read is a row of not-a-number with its problem. By the suffix
# of --result: .npz, .npy, .parquet, or .txt: the released `PATH<TAB>LABEL<TAB>f0 ...`.
set -euo pipefail

# shellcheck source=example/environment.sh
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/environment.sh"
answer_help extract_feature.py "$@"
# shellcheck disable=SC2119 # no extras are needed
prepare_environment

# shellcheck disable=SC2086 # LAUNCH is several words
exec ${LAUNCH:-python} "$PROJECT_ROOT/extract_feature.py" \
  --model_dir="$PROJECT_ROOT/checkpoints/ckpt-resnet101-mlimages" \
  --layer=pooled \
  --batch_size=32 \
  --num_preprocess_threads=4 \
  --result=features.npz \
  "$@"
