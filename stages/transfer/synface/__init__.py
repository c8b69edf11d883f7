"""SynFace's mixup face generator, with the embedded world's renderer in DiscoFaceGAN's place."""
