"""What is found wrong before anything is paid for."""
