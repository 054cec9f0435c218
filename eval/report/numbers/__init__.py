"""The report's numbers: from rows to what is compared, no sentence and no figure."""
