"""Numbers made of numbers: cells, the matrix, OP, BWT, General, uncertainty."""
