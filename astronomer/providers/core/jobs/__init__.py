"""What is waited for, and how it is asked about."""
