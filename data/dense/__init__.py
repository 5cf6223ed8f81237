"""Images with boxes or masks: annotations from VOC, COCO or mask folders, and their records."""
