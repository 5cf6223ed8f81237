#!/usr/bin/env bash
# Exports a checkpoint for other programs: SavedModel, ONNX and PyTorch weights with a model card.
#
#   example/export.sh                                       the finetuned ResNet-101
#   example/export.sh --export_format=onnx photo.jpg        one format, checked on your images
#   example/export.sh --model_dir=out/checkpoint            it stores class names and label mode
#   example/export.sh --model_dir=out/checkpoint --list     prints a checkpoint's contents
#   example/export.sh --import_weights=model.safetensors --result=out/imported/model.ckpt-0
#
# Where to get the checkpoint: checkpoints/README.md. Every export is run and compared with the
# checkpoint; the folder is created only if all agree. Expect, for ResNet-101 in half a minute:
#
#   saved_model, logits of images: max difference 3.3e-07 (of at most 0.0001)
#   model.onnx: max difference 5.3e-07 (of at most 0.0001)
#   model.safetensors: max difference 6.5e-07 (of at most 0.0001)      if PyTorch is installed
set -euo pipefail

# shellcheck source=example/environment.sh
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/environment.sh"
answer_help export.py "$@"
prepare_environment export

exec python "$PROJECT_ROOT/export.py" \
  --model_dir="$PROJECT_ROOT/checkpoints/ckpt-resnet101-mlimages-imagenet" \
  --top_k_pred=5 \
  --tolerance=1e-4 \
  --export_dir=out/export \
  "$@"
