"""Hearts of which there are points or planes alone, read as a `Case`. No whole label maps and no torch."""
