"""A page in the browser: upload a clip, see the scores of its labels, the frames that the model saw, and a rationale.

Input: a trained checkpoint. Output: a Gradio page; in a Space of the Hub this file is app.py and RBFT_MODEL the id.
Command: python rbft_trl/app.py --model outputs/run/stage2     (after: pip install -r requirements-app.txt)
"""

import argparse
import os
from pathlib import Path
from typing import Any

from PIL import Image

from rbft_trl.classifier import Checkpoint, VideoClassifier
from rbft_trl.data.children import ChildError, in_children
from rbft_trl.data.video import Clip, ClipError, read_row
from rbft_trl.errors import UserError, run_entry

MOST_BYTES = "500mb"  # of an upload
NONE = "The model wrote a class name and no reason; a checkpoint of stage 1 writes reasons."
NOTE = "A rationale is what the model wrote about the clip; it is not the reason for the label."


def main(argv: list[str]) -> None:
    """Serves the page until it is stopped."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=os.environ.get("RBFT_MODEL"), help="folder or Hub id [$RBFT_MODEL]")
    parser.add_argument("--revision", help="branch, tag or commit on the Hub")
    parser.add_argument("--base", help="where the base is now, if not where it was in training")
    parser.add_argument("--port", type=int, help="port of the page [7860 or the next free one]")
    parser.add_argument("--use_cpu", action="store_true", help="run on the CPU even if there is a GPU")
    args = parser.parse_args(argv)
    if not args.model:
        raise UserError("--model is missing; name the folder of a trained stage, or its id on the Hub")
    import torch

    device = "cuda" if torch.cuda.is_available() and not args.use_cpu else "cpu"
    checkpoint = Checkpoint.open(args.model, revision=args.revision, base=args.base)
    page = build(VideoClassifier.from_checkpoint(checkpoint, device=device))
    try:
        page.launch(server_port=args.port, show_error=True, max_file_size=MOST_BYTES)
    except OSError as error:  # the port is taken
        raise UserError(f"the page cannot be served on port {args.port}: {error}; name another --port") from error


def build(classifier: VideoClassifier) -> Any:
    """The page of a classifier.

    Raises:
        UserError: if Gradio is not installed.
    """
    try:
        import gradio
    except ImportError as error:
        raise UserError("the page needs Gradio; run `pip install -r requirements-app.txt`") from error
    card = classifier.collator.card

    def show(path: str | None, write: bool) -> tuple[dict[str, float], list[Image.Image], str]:
        if not path:
            raise gradio.Error("choose a clip first")
        try:
            return answer(classifier, path, write=write)
        except ClipError as error:
            raise gradio.Error(f"this clip cannot be read ({error.reason}): {error.detail}") from error

    with gradio.Blocks(title=card.name) as page:
        gradio.Markdown(f"# {card.name}\n{card.question}")
        with gradio.Row():
            with gradio.Column():
                clip = gradio.File(label="clip", type="filepath", elem_id="clip")
                write = gradio.Checkbox(label="also write a rationale (slower)", elem_id="write")
                button = gradio.Button("Which label?", variant="primary", elem_id="go")
            with gradio.Column():
                scores = gradio.Label(label="scores", elem_id="scores")
                frames = gradio.Gallery(label="the frames that the model saw", columns=4, height="auto")
                rationale = gradio.Textbox(label="rationale", info=NOTE, lines=4, elem_id="rationale")
        button.click(show, [clip, write], [scores, frames, rationale], api_name="classify")
    return page


def answer(
    classifier: VideoClassifier, path: str, *, write: bool = False
) -> tuple[dict[str, float], list[Image.Image], str]:
    """Scores, frames and, on request, a rationale; the clip is read in a child that a bad file cannot hang.

    Raises:
        ClipError: if the clip cannot be read.
    """
    row = {"id": path, "video": str(Path(path).resolve())}
    (clip,) = in_children(Reader(classifier), [row], workers=1)
    if isinstance(clip, ChildError):
        raise ClipError(path, clip.reason, clip.detail)
    if isinstance(clip, Exception):
        raise clip
    (scores,) = classifier.scores([row], [clip])
    text = ""
    if write:
        (text,) = classifier.rationales([row], [clip])
        text = classifier.collator.card.reasoning(text) or NONE
    return scores, [Image.fromarray(frame) for frame in clip.frames], text


class Reader:
    """Reads a row in a child: only what it needs travels there."""

    def __init__(self, classifier: VideoClassifier) -> None:
        collator = classifier.collator
        self.options = {"root": collator.root, "frames": collator.frames, "factor": collator.factor}

    def __call__(self, row: dict[str, Any]) -> Clip:
        """The clip of a row."""
        return read_row(row, **self.options)


if __name__ == "__main__":
    run_entry(main)
