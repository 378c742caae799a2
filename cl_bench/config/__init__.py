"""What a YAML may say, with every default, and how it is read."""
