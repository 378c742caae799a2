"""Many runs of one experiment at once, spread over the hosts of a cluster."""
