"""What an artifact is worth: parity, accuracy, languages, latency, verdict, report."""
