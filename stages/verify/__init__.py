"""Whether a run gives the same bytes again, and where it begins to differ if it does not."""
