"""The project's own backbones, one family a file. The registry reads the decorators without importing the files."""
