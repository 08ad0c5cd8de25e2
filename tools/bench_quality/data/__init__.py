"""Images, texts and tones, as arrays."""
