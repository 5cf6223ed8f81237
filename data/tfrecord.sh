#!/usr/bin/env bash
# Converts an image list and its images to TFRecord shards, with every setting spelled out.
#
#   ./data/tfrecord.sh                        # data/train_im_list.txt, see docs/data.md
#   SPLIT=val ./data/tfrecord.sh              # data/val_im_list.txt
#   ./data/tfrecord.sh --short_side 256       # flags given here come last and win
#   ./data/tfrecord.sh --verify               # reads the shards again and checks them
#
# --indexs is a list, or a folder of lists that were split by hand; --kind is sparse, dense (as
# released: -one True) or single (one int64, as released: -one False).
#
# Expect: ./data/train/00000.tfrecords and on, each with its .idx, then manifest.json (rows, bytes,
# SHA-256 of each) and bad_images.tsv. The same command again resumes where it stopped. One core
# converts about 1,500 images of 500 x 375 per second. All of ML-Images at original size takes about
# 15 TB (Open Images originals have 2 MB), with --short_side 256 about 0.6 TB.
set -euo pipefail

# shellcheck source=example/environment.sh
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/../example/environment.sh"
answer_help data/tfrecord.py "$@"
prepare_environment

SPLIT="${SPLIT:-train}"
# shellcheck disable=SC2086 # LAUNCH is several words, from tfrecord_mpirun.sh
exec ${LAUNCH:-python} "$PROJECT_ROOT/data/tfrecord.py" \
  --indexs "./data/${SPLIT}_im_list.txt" \
  --images "./data/images/$SPLIT/" \
  --tfrecords "./data/$SPLIT/" \
  --num_class 11166 \
  --kind sparse \
  --start_index 0 \
  --shard_size 1024 \
  --quality 95 \
  --exif apply \
  "$@"
