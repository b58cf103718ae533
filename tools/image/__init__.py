"""Builds and tries the Runtime image, with Docker or without."""
