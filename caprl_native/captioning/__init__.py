"""Captions of large collections of images and videos."""
