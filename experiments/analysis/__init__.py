"""What is measured of networks and of runs, and how it is drawn."""
