"""A local Databricks workspace."""

from __future__ import annotations

from astronomer.lab.databricks.client import LabClient
from astronomer.lab.databricks.lab import DatabricksLab

__all__ = ["DatabricksLab", "LabClient"]
