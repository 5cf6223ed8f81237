"""Faster R-CNN on a backbone's stage of stride 16: boxes, targets, network and losses."""
