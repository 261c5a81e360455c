"""The hub: what is pushed, how it is made clean, and the calls to the Hub."""
