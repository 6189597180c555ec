"""`emodistill report`: runs as one HTML page that needs nothing else, for the eye and for paper."""
