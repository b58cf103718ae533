"""The soak: thousands of mixed waits that come and go in one real triggerer, and what they leave behind."""
