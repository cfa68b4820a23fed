"""From faces to scores, verdicts, tables and a report."""
