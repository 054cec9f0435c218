"""What published comparisons found, checked in kind on `reviews`: docs/findings.md."""
