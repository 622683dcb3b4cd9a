"""Images and label maps: files, coordinate frames, classes with names and colours, pictures. No case files or torch."""
