"""Looking at runs: `runs` reads their folders, `figures` draws, `report` writes one HTML file."""
