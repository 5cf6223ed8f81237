"""What the other packages of data/ share: pictures, pages, processes, progress."""
