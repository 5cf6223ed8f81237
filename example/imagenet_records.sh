#!/usr/bin/env bash
# ILSVRC2012, unpacked into a folder a synset, to the records that example/finetune.sh reads.
#
#   IMAGENET=/data/ilsvrc2012 ./example/imagenet_records.sh   # train/n01440764/ and on, and val/
#
# Classes are numbered by the order of their synsets, as in data/imagenet2012_dictionary.txt. The
# validation archive has its images in one folder: sort them into synsets first.
#
# Expect: ./data/ilsvrc2012/train/ and val/ with 1,281,167 and 50,000 records of one label. The same
# command again continues where it stopped.
set -euo pipefail

# shellcheck source=example/environment.sh
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/environment.sh"
answer_help data/tfrecord.py "$@"
prepare_environment

for split in train val; do
  images="${IMAGENET:?set it to the folder with train/ and val/}/$split"
  python "$PROJECT_ROOT/data/own_data.py" \
    --images "$images" \
    --val_fraction 0 \
    --test_fraction 0 \
    --output "./data/ilsvrc2012/$split.lists"
  python "$PROJECT_ROOT/data/tfrecord.py" \
    --indexs "./data/ilsvrc2012/$split.lists/train_list.txt" \
    --images "$images" \
    --tfrecords "./data/ilsvrc2012/$split/" \
    --num_class 1000 \
    --kind single \
    "$@"
done
