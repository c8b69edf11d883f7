"""Where a face lies in an image, and how it is warped to ArcFace's template; `stage` does it to the training images."""
