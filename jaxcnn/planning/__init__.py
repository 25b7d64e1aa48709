"""Hardware that is not attached: roofline bounds, compiled programs, forecasts. Training does not import it."""
