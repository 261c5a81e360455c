"""rbft_trl: rationale-bootstrapped fine-tuning of vision-language models for video classification."""

import logging

__version__ = "0.1.0"

# At every start without a GPU bitsandbytes warns of an optional kernel on the Hub that nothing here would fetch.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
