"""Hardware that is not attached: roofline, compiled programs and forecasts. Training does not import it."""
