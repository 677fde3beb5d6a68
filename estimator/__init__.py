"""What a fine-tune needs: pure readings of a plan. No torch; no network but in hub.py."""
