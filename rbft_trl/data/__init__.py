"""Data: from a folder of clips to flat rows, prompts and frames."""
