"""An interrupted stage goes on where it was: what is saved in the middle of one, and put back."""
