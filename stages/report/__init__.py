"""One page that shows the whole run."""
