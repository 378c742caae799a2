"""What is scored, on which documents, and by whom."""
