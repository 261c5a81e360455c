"""The page: its answers without a browser, and in a headless one where that is installed."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest

from rbft_trl import app, sft
from rbft_trl.classifier import VideoClassifier
from rbft_trl.data.jsonl import read_jsonl
from rbft_trl.data.video import ClipError
from rbft_trl.errors import UserError
from tests.browser import headless, needs_browser
from tests.helpers import toy_recipe
from tests.test_training import QUICK

GRADIO = importlib.util.find_spec("gradio") is not None
needs_gradio = pytest.mark.skipif(not GRADIO, reason="gradio is not installed (requirements-app.txt)")


@pytest.fixture(scope="module")
def classifier(
    toy_set: tuple[Path, Path], smoke_base: Path, tmp_path_factory: pytest.TempPathFactory
) -> VideoClassifier:
    folder = tmp_path_factory.mktemp("app")
    sft.main([toy_recipe("direct", folder, toy_set[0], smoke_base, output_dir=folder / "run", **QUICK)])
    return VideoClassifier.from_pretrained(folder / "run", device="cpu")


@pytest.fixture(scope="module")
def clip(toy_set: tuple[Path, Path]) -> str:
    return str(toy_set[1] / "clips" / f"{read_jsonl(toy_set[1] / 'attributes.jsonl')[0]['id']}.mp4")


def test_the_answer_holds_scores_frames_and_a_rationale(
    classifier: VideoClassifier, clip: str, tmp_path: Path
) -> None:
    scores, frames, text = app.answer(classifier, clip)
    assert scores == {a["label"]: pytest.approx(a["score"]) for a in classifier(clip)} and text == ""
    assert len(frames) == 8 and frames[0].size == (56, 56)
    assert isinstance(app.answer(classifier, clip, write=True)[2], str)
    (tmp_path / "bad.mp4").write_bytes(b"no clip")
    with pytest.raises(ClipError, match="not_a_video"):
        app.answer(classifier, str(tmp_path / "bad.mp4"))


def test_without_a_model_there_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RBFT_MODEL", raising=False)
    with pytest.raises(UserError, match="--model is missing"):
        app.main([])


@pytest.fixture(scope="module")
def page(classifier: VideoClassifier) -> Iterator[str]:
    """The address of the page, served on this machine."""
    blocks = app.build(classifier)
    _, address, _ = blocks.launch(prevent_thread_lock=True, quiet=True, share=False, inbrowser=False)
    yield address
    blocks.close()


@needs_gradio
@needs_browser
def test_a_person_uploads_a_clip_and_sees_its_label(page: str, clip: str, classifier: VideoClassifier) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    with headless() as browser:
        browser.get(page)
        wait = WebDriverWait(browser, 60)
        wait.until(lambda b: b.find_elements(By.CSS_SELECTOR, "#clip input[type=file]"))
        browser.find_element(By.CSS_SELECTOR, "#clip input[type=file]").send_keys(clip)
        wait.until(lambda b: Path(clip).stem in b.find_element(By.CSS_SELECTOR, "#clip").text)
        button = wait.until(lambda b: b.find_elements(By.CSS_SELECTOR, "#go"))[0]
        browser.execute_script("arguments[0].click()", button)  # the page may still be moving
        best = classifier(clip)[0]["label"]
        wait.until(lambda b: best in b.find_element(By.CSS_SELECTOR, "#scores").text)
        wait.until(lambda b: len(b.find_elements(By.CSS_SELECTOR, ".grid-wrap img, .thumbnail-item img")) >= 8)
        errors = [
            entry
            for entry in browser.get_log("browser")
            if page in entry["message"] and "font" not in entry["message"]
        ]
        assert not errors


@needs_gradio
def test_a_bad_clip_is_told_on_the_page(page: str, tmp_path: Path) -> None:
    from gradio_client import Client, handle_file

    (tmp_path / "bad.mp4").write_bytes(b"no clip")
    client = Client(page, verbose=False)
    with pytest.raises(Exception, match="cannot be read"):
        client.predict(handle_file(str(tmp_path / "bad.mp4")), False, api_name="/classify")
