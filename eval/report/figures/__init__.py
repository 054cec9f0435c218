"""The report's figures: frames in, matplotlib figures out."""
