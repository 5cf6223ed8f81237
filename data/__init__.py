"""Files and images: lists, download, annotations, records, and the one input pipeline."""
