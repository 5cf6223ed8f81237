"""What the other packages of data/ share: images, pages, processes, progress."""
