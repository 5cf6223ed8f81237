"""Image files: lists, downloads, annotations, TFRecords and the input pipeline."""
