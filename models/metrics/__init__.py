"""What predictions are worth: exact metrics of any number of images, on any number of workers."""
