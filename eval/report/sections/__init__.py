"""The report's sections: numbers, figures and caveats in words."""
