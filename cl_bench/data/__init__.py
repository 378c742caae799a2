"""From a task to examples, tokens and batches."""
