#!/usr/bin/env bash
# Finds similar images: makes a page of images with their nearest neighbors in feature space.
#
#   example/similar_images.sh holiday/                          neighbors of 20 of its images
#   example/similar_images.sh --layer=stage2 holiday/           with another layer's features
#   OUT=alike QUERIES=new.jpg example/similar_images.sh holiday/   neighbors of a new image
#
# Flags (as --name=value) go to extract_feature.py and override those below. Paths are relative to
# the working folder. Writes $OUT/features.npz and $OUT/similar.html; a cosine near 1 often means a
# duplicate.
set -euo pipefail

# shellcheck source=example/environment.sh
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/environment.sh"
answer_help extract_feature.py "$@"
# shellcheck disable=SC2119 # no extras are needed
prepare_environment

OUT="${OUT:-similar_images}"

extract() {
  python "$PROJECT_ROOT/extract_feature.py" \
    --model_dir="$PROJECT_ROOT/checkpoints/ckpt-resnet101-mlimages" \
    --layer=pooled \
    --batch_size=32 \
    "$@"
}

extract "$@" --result="$OUT/features.npz"
queries=()
if [[ -n "${QUERIES:-}" ]]; then
  flags=()
  for argument in "$@"; do
    [[ "$argument" != --* || "$argument" == --images=* ]] || flags+=("$argument")
  done
  extract "${flags[@]}" --result="$OUT/queries.npz" "$QUERIES"
  queries=(--queries "$OUT/queries.npz")
fi
python "$PROJECT_ROOT/data/similar_images.py" \
  --features "$OUT/features.npz" \
  "${queries[@]}" \
  --neighbors 7 \
  --count 20 \
  --output "$OUT/similar.html"
