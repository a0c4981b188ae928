"""From one training to a comparison: records, groups of runs, results per user, significance."""
