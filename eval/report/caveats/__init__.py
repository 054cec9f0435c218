"""What to know before relying on the report: sentences, none where all is well."""
