"""Images with boxes or masks: annotations of VOC, COCO and folders of masks, and their records."""
