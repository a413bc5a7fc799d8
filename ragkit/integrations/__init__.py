"""ragkit's retrievers as other libraries know them; each is imported by its own module's name."""
