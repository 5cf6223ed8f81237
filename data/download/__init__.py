"""Resumable, rate-limited image downloader."""
