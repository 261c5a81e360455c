"""The options of stage 0: who writes rationales, how, and which of them are kept.

Which other options an entry has is rbft_trl/configs.py.
"""

from dataclasses import dataclass
from urllib.parse import urlsplit

from rbft_trl.configs import check_bounds, option
from rbft_trl.errors import UserError

OF_THE_SERVER = ("server_model", "concurrency", "server_timeout")
OF_THE_CHECKS = ("checks", "rebuild", "rebuild_margin", "min_agreement", "checklist_margin")
NOT_PART_OF_THE_TEXT = ("output_file", "checkpoint", "use_cpu", "dataloader_num_workers", "server_url", "writer")
NOT_PART_OF_THE_TEXT += (*OF_THE_CHECKS, *OF_THE_SERVER)
ASKED = ("hint", "instruction")  # part of the text only where they are set: files from before they existed stay valid


@dataclass
class RationaleArguments:
    """How stage 0 writes rationales and which of them are kept."""

    output_file: str = option("", "rationales.jsonl to write.", output=True)
    checkpoint: str | None = option(
        None, "Folder of a trained stage that writes instead of the base (a cycle of Video-STaR); left out: the base."
    )
    label_shown: str = option(
        "blind",
        "blind: never; hint: always; blind_then_hint: only to clips whose blind rationales all failed the checks.",
        choices=["blind", "hint", "blind_then_hint"],
    )
    hint: str = option(
        "gold",
        "Which label is shown. gold: the clip's; other: that of another class, the same for a clip every time (a "
        "control: what does a hint do, whatever it says?).",
        choices=["gold", "other"],
    )
    instruction: str | None = option(
        None,
        "A prompt of its own, word for word, instead of the card's, e.g. for plain captions; stage 1 is trained on "
        "it, and no final line is asked for or checked.",
    )
    checks: str = option(
        "label_match",
        "none: keep all (the paper); label_match: the final line names the gold label; all: every check of verify.py.",
        choices=["none", "label_match", "all"],
    )
    rebuild: str = option(
        "none",
        "Sentences that name a class deleted, does the label follow from the rest? words: a student fitted on the "
        "other clips' rationales judges (no model, seconds per thousand rationales); model: the base does, from the "
        "text alone (one prefill without a clip per labelled rationale).",
        choices=["none", "words", "model"],
    )
    rebuild_margin: float = option(0.0, "By how much the label must be ahead of every other one there, in nats.")
    min_agreement: float = option(
        0.0,
        "Least agreement, 0 to 1, with the clip's other samples: in the final line, or where the clip has no label or "
        "the label was shown, in content words. Costs num_samples rationales per clip, from one prefill.",
    )
    writer: str = option(
        "free",
        "free: the base writes a text; checklist: it answers the task card's `checklist` by likelihood, and the "
        "answers are the text (one prefill of the clip and one forward over all questions, nothing is generated).",
        choices=["free", "checklist"],
    )
    checklist_margin: float = option(0.0, "By how much an answer must be ahead of the others, in nats, to be kept.")
    num_samples: int = option(1, "Rationales per clip, all from one prefill.")
    temperature: float = option(0.7, "Sampling temperature; 0 is greedy.")
    top_p: float = option(0.95, "Nucleus sampling: the smallest set of tokens with this probability.")
    max_new_tokens: int = option(256, "Longest rationale, in tokens.")
    per_device_batch_size: int = option(8, "Clips per batch; batches are fixed over the sorted ids.")
    dataloader_num_workers: int = option(0, "Processes that read clips ahead.")
    use_pool: bool = option(True, "Whether clips without a label get rationales too (stage 1 can use them).")
    seed: int = option(0, "Seed of the sampling; each batch has a generator of its own.")
    use_cpu: bool = option(False, "Run on the CPU even if there is a GPU.")
    server_url: str | None = option(
        None, "OpenAI-compatible server that runs the base instead of this machine, e.g. http://localhost:8000/v1."
    )
    server_model: str | None = option(None, "Name of the base on the server; model_name_or_path if left out.")
    concurrency: int = option(16, "Requests to the server under way at once.")
    server_timeout: float = option(300.0, "Seconds that one request may take before it is sent again.")

    def __post_init__(self) -> None:
        if not self.output_file:
            raise UserError("'output_file' is missing; name the rationales.jsonl to write")
        counts = ("num_samples", "max_new_tokens", "per_device_batch_size")
        check_bounds(self, **{key: (getattr(self, key) >= 1, "at least 1") for key in counts})
        check_bounds(
            self,
            dataloader_num_workers=(self.dataloader_num_workers >= 0, "at least 0"),
            seed=(0 <= self.seed < 2**32, "from 0 to below 2^32"),
            temperature=(self.temperature == 0 or 0.001 <= self.temperature <= 100, "0, or from 0.001 to 100"),
            top_p=(0 < self.top_p <= 1, "above 0, at most 1"),
        )
        if self.temperature == 0 and self.top_p != self.__dataclass_fields__["top_p"].default:
            raise UserError(f"'top_p' is {self.top_p} but temperature is 0, which is greedy; leave it out, or set one")
        if self.num_samples > 1 and self.temperature == 0:
            raise UserError(
                "num_samples above 1 with temperature 0 would write the same text again; set a temperature"
            )
        if self.hint != "gold" and (self.label_shown != "hint" or self.checks != "none"):
            raise UserError(
                f"hint is {self.hint} but label_shown is {self.label_shown} and checks {self.checks}; such a text "
                "argues for another class, so set label_shown: hint and checks: none, or leave hint out"
            )
        if self.instruction is not None and (self.label_shown, self.checks, self.writer) != ("blind", "none", "free"):
            raise UserError(
                f"instruction is set but label_shown is {self.label_shown}, checks {self.checks} and writer "
                f"{self.writer}; what answers it names no label, so set blind, none and free, or leave instruction out"
            )
        if self.instruction is not None and not self.instruction.strip():
            raise UserError("'instruction' is empty; write what the base is asked, or leave it out")
        self._check_thresholds()
        self._check_server()

    def _check_thresholds(self) -> None:
        check_bounds(
            self,
            rebuild_margin=(0 <= self.rebuild_margin < float("inf"), "a number from 0"),
            checklist_margin=(0 <= self.checklist_margin < float("inf"), "a number from 0"),
            min_agreement=(0 <= self.min_agreement <= 1, "from 0 to 1"),
        )
        if self.rebuild_margin and self.rebuild == "none":
            raise UserError(f"'rebuild_margin' is {self.rebuild_margin:g} but rebuild is none; set rebuild: words")
        if self.checklist_margin and self.writer != "checklist":
            raise UserError(
                f"'checklist_margin' is {self.checklist_margin:g} but writer is {self.writer}; leave it out"
            )
        if self.checks == "none" and (self.rebuild != "none" or self.min_agreement):
            raise UserError("checks is none but rebuild or min_agreement is set; use checks: label_match or all")
        if self.min_agreement and self.num_samples < 2:
            raise UserError(f"'min_agreement' is {self.min_agreement:g} but num_samples is 1; set it to 4, say")
        if self.rebuild == "model" and self.server_url is not None:
            raise UserError("rebuild: model scores with the base here, but server_url is set; use rebuild: words")
        if self.writer == "checklist":
            self._check_unused()

    def _check_unused(self) -> None:
        if self.server_url is not None:
            raise UserError("writer: checklist scores answers with the base here; leave server_url out")
        for name in ("label_shown", "num_samples", "temperature", "top_p", "max_new_tokens", "rebuild"):
            if (value := getattr(self, name)) != self.__dataclass_fields__[name].default:
                raise UserError(f"'{name}' is {value!r} but writer: checklist generates no text; leave it out")

    def _check_server(self) -> None:
        if self.server_url is None:
            for name in OF_THE_SERVER:
                if getattr(self, name) != self.__dataclass_fields__[name].default:
                    raise UserError(f"'{name}' is {getattr(self, name)!r} but without server_url there is no server")
            return
        if self.checkpoint is not None:
            raise UserError(
                f"checkpoint is '{self.checkpoint}' but the server at {self.server_url} writes; serve that model, or "
                "leave one of them out"
            )
        self.server_url = checked_url(self.server_url)
        if self.server_model is not None and not self.server_model.strip():
            raise UserError("'server_model' is empty; name the model as the server lists it, or leave it out")
        check_bounds(
            self,
            concurrency=(1 <= self.concurrency <= 1024, "from 1 to 1024"),
            server_timeout=(0 < self.server_timeout <= 86400, "above 0, at most 86400 seconds"),
        )


def checked_url(url: str) -> str:
    """The address below which the server answers `/models` and `/chat/completions`, without a closing slash.

    Raises:
        UserError: if it is no address of a server, or holds a password.
    """
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.hostname and (parts.port is None or parts.port > 0)
    except ValueError:  # a port that is no number, a bracket that is not closed
        parts, usable = None, False
    if parts is not None and (parts.username or parts.password):
        raise UserError("server_url holds a user name or password; leave it out and set RBFT_SERVER_KEY instead")
    if not usable or parts.query or parts.fragment or any(sign.isspace() for sign in url):
        raise UserError(f"server_url '{url}' is no address of a server; write e.g. http://localhost:8000/v1")
    return url.rstrip("/") if parts.path.strip("/") else f"{url.rstrip('/')}/v1"
