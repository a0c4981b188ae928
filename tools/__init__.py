"""Commands for those who work on this repository; they are part of no package that is installed."""
