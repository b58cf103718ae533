"""The border to other deployments and to file systems."""
