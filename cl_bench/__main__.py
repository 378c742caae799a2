"""`python -m cl_bench`."""

from cl_bench.cli import main

main()
