"""A server under a mixed load for many minutes: what grows, what gets slower, what fails."""
