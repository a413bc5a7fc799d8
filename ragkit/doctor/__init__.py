"""What is wrong with a collection, and mending what is ours: `examination.examine`, `.repair`."""
