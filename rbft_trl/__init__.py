"""rbft_trl: rationale-bootstrapped fine-tuning of vision-language models for video classification."""

__version__ = "0.1.0"
