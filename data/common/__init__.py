"""Shared by the packages of data/: files, images, HTML, parallel work, progress."""
