"""What is on disk: run folders, atomic writes, checksums, partial scorings."""
