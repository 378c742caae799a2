"""Getting, checking and auditing the datasets: `cl-bench data`."""
