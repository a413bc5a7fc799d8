"""A collection made anew beside itself (`rebuild.rebuild`), or elsewhere (`copying.copy`)."""
