"""Images and label maps: files, frames, labels, their names, colours and pictures. No case files and no torch."""
