"""What must not leave: keys and codes, names in headers, text in pixels, de-identified copies."""
