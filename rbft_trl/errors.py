"""How a user mistake is told: one sentence with the value, the place and the way out, and a non-zero exit.

Everything else (a bug of ours, a bug of a library) keeps its traceback.
"""

import difflib
import sys
from collections.abc import Callable, Iterable


class UserError(ValueError):
    """A mistake in a recipe, a task card, the data or the set-up that its reader can mend."""


def nearest(name: str, choices: Iterable[str]) -> str:
    """Returns `"; did you mean 'x'?"` for the closest of `choices`, or an empty string if none is close."""
    found = difflib.get_close_matches(str(name), [str(c) for c in choices], n=1, cutoff=0.6)
    return f"; did you mean '{found[0]}'?" if found else ""


def run_entry(main: Callable[[list[str]], object]) -> None:
    """Runs an entry's `main(argv)` on the command line: a `UserError` becomes one sentence on stderr and exit 2."""
    try:
        main(sys.argv[1:])
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
