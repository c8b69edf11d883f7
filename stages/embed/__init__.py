"""Who is in an image, as a vector: `encoder` sees images, `prototypes` reads what `stage` made."""
