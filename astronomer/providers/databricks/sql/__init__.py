"""What the SQL operators and sensors share: texts, submits, results."""
