"""Operators, sensors, hooks and triggers, one package per vendor, at the import paths of 1.x."""
