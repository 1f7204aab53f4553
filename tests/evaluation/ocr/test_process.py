"""OCR processes: one bad image costs one image."""

from __future__ import annotations

import errno
from pathlib import Path

import fake_ocr
import pytest

from glmkit.errors import UserError
from glmkit.evaluation.ocr import process
from glmkit.evaluation.ocr.lines import OcrError, RecognizedLine, reading_order
from glmkit.evaluation.ocr.process import OcrProcess, OcrProcesses, recognize_images

pytestmark = pytest.mark.usefixtures("ocr_log")


def results(*paths: Path) -> dict[str, object]:
    found = dict(recognize_images(dict.fromkeys(paths, 1), "fake_ocr"))
    return {path.name: found[path] if isinstance(found[path], tuple) else str(found[path]) for path in paths}


def test_crash_failure_and_broken_file_cost_one_image_each(tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"\x89PNG nothing")
    found = results(
        fake_ocr.write(tmp_path / "1.png", "Größe 狐狸"),
        fake_ocr.write(tmp_path / "2.png", does="crash"),
        tmp_path / "broken.png",
        fake_ocr.write(tmp_path / "3.png", does="fail"),
        fake_ocr.write(tmp_path / "4.png"),
    )
    assert found["1.png"] == (RecognizedLine("Größe 狐狸", 0.9, (0, 0, 50, 8)),)
    assert "died" in str(found["2.png"])
    assert "cannot identify" in str(found["broken.png"])
    assert found["3.png"] == "ValueError: unreadable"
    assert found["4.png"] == ()


def test_a_hang_costs_one_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "SECONDS_PER_IMAGE", 2.0)
    hangs, reads = fake_ocr.write(tmp_path / "1.png", does="hang"), fake_ocr.write(tmp_path / "2.png", "x")
    found = dict(recognize_images({hangs: 1, reads: 1}, "fake_ocr"))
    assert isinstance(found[hangs], OcrError)
    assert found[reads] == (RecognizedLine("x", 0.9, (0, 0, 50, 8)),)


def test_an_engine_that_does_not_start_stops_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_OCR_BROKEN", "1")
    with pytest.raises(UserError, match=r"does not start.*\n.*no weights"):
        list(recognize_images({fake_ocr.write(tmp_path / "1.png"): 1}, "fake_ocr"))


def test_many_images_are_shared_among_processes(tmp_path: Path, ocr_log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(6)), raising=False)
    monkeypatch.setattr(process, "IMAGES_PER_PROCESS", 2)
    monkeypatch.setenv("FAKE_OCR_SECONDS", "0.1")
    paths = [fake_ocr.write(tmp_path / f"{number}.png", f"text {number}") for number in range(8)]
    found = results(*paths)
    assert found == {f"{number}.png": (RecognizedLine(f"text {number}", 0.9, (0, 0, 50, 8)),) for number in range(8)}
    notes = [line.split() for line in ocr_log.read_text().splitlines()]
    assert len({pid for pid, _ in notes}) == 3
    assert len(notes) == 8


def test_reading_order_goes_by_rows_then_columns() -> None:
    def line(text: str, left: int, top: int, height: int = 20) -> RecognizedLine:
        return RecognizedLine(text, 1.0, (left, top, left + 40, top + height))

    # "big" is twice as high as its neighbour; "below" overlaps the first row by less than half
    lines = [line("below", 0, 32), line("right", 90, 6), line("left", 0, 9), line("big", 45, 0, 40)]
    assert [item.text for item in reading_order(lines)] == ["left", "big", "right", "below"]
    assert reading_order([]) == []


def test_a_pipe_that_breaks_as_on_windows_costs_one_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There, writing to a process that has ended is an OSError of another kind than BrokenPipeError."""
    one = OcrProcess(fake_ocr.command("", 1, 0))
    path = fake_ocr.write(tmp_path / "1.png", "x")
    try:
        one.recognize(path, 1)
        assert one._process is not None

        def fail(_: str) -> None:
            raise OSError(errno.EINVAL, "Invalid argument")

        monkeypatch.setattr(one._process.stdin, "write", fail)
        one._process.stdin.close()  # type: ignore[union-attr]
        with pytest.raises(OcrError, match="died"):
            one.recognize(path, 1)
        assert one.recognize(path, 1)[0].text == "x"
    finally:
        one.close()


@pytest.mark.parametrize(("dense", "count"), [(False, 2), (True, 4)])
def test_processes_stay_for_more_images(
    dense: bool, count: int, tmp_path: Path, ocr_log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On four cores the engine has a process for two of them, or for each."""
    monkeypatch.setattr("glmkit.runs.cores", lambda: 4)
    monkeypatch.setenv("FAKE_OCR_SECONDS", "0.2")
    paths = [fake_ocr.write(tmp_path / f"{number}.png", "x") for number in range(6)]
    processes = OcrProcesses("fake_ocr", dense=dense)
    try:
        for _ in range(2):
            assert len(dict(processes.recognize(dict.fromkeys(paths, 1)))) == 6
    finally:
        processes.close()
    assert len({line.split()[0] for line in ocr_log.read_text().splitlines()}) == count
