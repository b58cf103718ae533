"""What is waited for, and the pollers that ask."""
