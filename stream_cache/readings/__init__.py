"""What a reading is: no I/O, and nothing of the other rooms."""
