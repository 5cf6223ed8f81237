"""Files and pictures: lists, download, annotations, records, and the one input pipeline."""
