"""The rendered images as they are: the DigiFace baseline."""
