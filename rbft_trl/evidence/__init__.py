"""Evidence: checks of rationales, metrics, statistics and the report."""
