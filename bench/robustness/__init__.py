"""What happens to files, models and processes that are treated badly: killed, cut short, flooded, interrupted."""
