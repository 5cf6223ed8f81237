#!/usr/bin/env bash
# Extracts the 2,048 features of images for other programs: search, clustering, a small classifier.
#
#   example/extract_feature.sh holiday/                          files, folders, "globs/*.png"
#   example/extract_feature.sh --images=list.txt                 a path and optional label per row
#   example/extract_feature.sh --images=data/train/ --result=f.parquet "shards/*.tfrecords"
#   example/extract_feature.sh --layer=stage2 --l2_normalize --feature_type=float16 holiday/
#   LAUNCH="mpirun -n 4 python" example/extract_feature.sh ...   4 processes (or with horovodrun)
#
# Flags given to this script override those below. Paths are relative to the working folder.
# The same command resumes a killed run, with byte-identical output.
#
# Writes features.npz: `features` [N, 2048], `names`, `labels` and `problems` [N], in input order.
# An unreadable image is a row of NaN with its problem. The suffix of --result selects the format:
# .npz, .npy, .parquet, or .txt (the released `PATH<TAB>LABEL<TAB>f0 ...`).
set -euo pipefail

# shellcheck source=example/environment.sh
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/environment.sh"
answer_help extract_feature.py "$@"
# shellcheck disable=SC2119 # no extras are needed
prepare_environment

# shellcheck disable=SC2086 # LAUNCH may be several words
exec ${LAUNCH:-python} "$PROJECT_ROOT/extract_feature.py" \
  --model_dir="$PROJECT_ROOT/checkpoints/ckpt-resnet101-mlimages" \
  --layer=pooled \
  --batch_size=32 \
  --num_preprocess_threads=4 \
  --result=features.npz \
  "$@"
