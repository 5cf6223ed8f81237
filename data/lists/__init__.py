"""Lists of images with tags, and the hierarchy of classes: read, checked, counted, rewritten."""
