"""How a user mistake is told: one sentence with the value, the place and the way out, and a non-zero exit.

Everything else (a bug of ours, a bug of a library) keeps its traceback.
"""

import difflib
import errno
import multiprocessing
import os
import re
import signal
import sys
from collections.abc import Callable, Iterable, Sequence

from rbft_trl.stopping import EXIT_CODE, Stopped, follow_launcher

NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
COMMAND_LINE = "the command line"
PLACES: dict[str, str] = {}  # option → setup, recipe or command line that gave its value, of the recipe read last
SEARCHED: dict[str, list[str]] = {}  # relative path that was not found → folders in which it was looked for


TELL = "RBFT_NOTHING_KEPT"  # variable of the environment: the file in which an entry tells its driver of `NothingKept`


class UserError(ValueError):
    """A mistake in a recipe, a task card, the data or the set-up that its reader can mend."""


class NothingKept(UserError):
    """The checks left a class without the rationales that a step needs: one, or those of two clips."""


def nearest(name: str, choices: Iterable[str]) -> str:
    """Returns `"; did you mean 'x'?"` for the closest of `choices`, or an empty string if none is close."""
    found = difflib.get_close_matches(str(name), [str(c) for c in choices], n=1, cutoff=0.6)
    return f"; did you mean '{found[0]}'?" if found else ""


def quoted(names: Sequence[str], *, most: int = 3) -> str:
    """Returns `"'a', 'b', 'c'"`: the first of a list of names, for a message."""
    return ", ".join(f"'{name}'" for name in names[:most])


def searched(path: object) -> str:
    """Returns `" (looked for in 'a', 'b')"` for a relative path of a recipe or command line, or an empty string."""
    folders = SEARCHED.get(str(path))
    return f" (looked for in {quoted(folders)})" if folders else ""


def at_least(least: int, **values: int) -> None:
    """Refuses numbers of a command line that are too small.

    Raises:
        UserError: naming the first such option.
    """
    for key, value in values.items():
        if value < least:
            raise UserError(f"--{key} is {value} but must be at least {least}")


def places_of(message: str) -> list[str]:
    """Where the options that a message names got their values, in the order in which it names them, each once."""
    found = []
    for key, place in PLACES.items():
        plain = rf"|\b{key}\b" if "_" in key else rf"|\b{key}(?= is | holds | ')"  # 'task' may be just a word
        if match := re.search(rf"'{key}'{plain}", message):
            found.append((match.start(), place))
    return list(dict.fromkeys(place for _, place in sorted(found)))


def run_entry(main: Callable[[list[str]], object]) -> None:
    """Runs an entry's `main(argv)` on the command line: a `UserError` becomes one sentence on stderr and exit 2.

    So does a full disk. A run that was asked to stop, and has done so in order, exits 143. What was found after the
    recipe was read names the recipe too.
    """
    try:
        follow_launcher()
        main(sys.argv[1:])
    except Stopped as stop:
        if os.environ.get("RANK", "0") == "0":
            print(stop, file=sys.stderr)
        sys.exit(EXIT_CODE)
    except KeyboardInterrupt:
        print("stopped; the same command goes on where it can", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # whoever read the output has gone, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except UserError as error:
        recipe = next((word.rpartition("=")[2] for word in sys.argv[1:] if word.endswith((".yaml", ".yml"))), "")
        elsewhere = recipe in str(error) or str(error).startswith(("--", COMMAND_LINE))  # the message says where
        place = f"{recipe}: " if recipe and not elsewhere else ""
        named = next(iter(places_of(str(error))), recipe)
        if named.endswith((".yaml", ".yml")) and named != recipe and named not in str(error):
            place += f"{named}: "  # the setup
        print(f"error: {place}{error}", file=sys.stderr)
        if isinstance(error, NothingKept) and (told := os.environ.get(TELL)):
            with open(told, "w", encoding="utf-8") as stream:
                stream.write(str(error))
        sys.exit(2)
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        print(
            f"error: no room to write '{error.filename or 'a file'}'; make room: the same command goes on where it "
            "can",
            file=sys.stderr,
        )
        sys.exit(2)
    finally:
        _end_children()


def _end_children() -> None:
    """A process that reads clips and hangs would be waited for, for ever."""
    children = multiprocessing.active_children()
    if children and hasattr(signal, "SIGCHLD"):
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler takes their end for an accident
    for child in children:
        child.kill()
