"""One page of everything that the stages of a workdir have found."""
