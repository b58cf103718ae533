"""The list of Runtime releases: its rules, what is copied into it, and the tables that are made from it."""
