"""What a crash, a fault of the disk, or damage to the files may not do."""
