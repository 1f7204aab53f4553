"""Reference sets: made once, continued, refused when they changed; distances on equal numbers, the set's own too."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tiny_clip
from PIL import Image

from glmkit.errors import UserError
from glmkit.evaluation.features import store
from glmkit.evaluation.features.distances import rbf, sample
from glmkit.evaluation.features.extractors import slug
from glmkit.evaluation.features.extractors.clip import OpenClip
from glmkit.evaluation.features.run_images import RunImages
from glmkit.evaluation.reference_sets import compare, sets
from glmkit.evaluation.reference_sets.sets import ReferenceSet
from glmkit.evaluation.reference_sets.sources import FolderSource
from glmkit.files import read_jsonl
from glmkit.records import Distance, Generation


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GLMKIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"clip:{tiny_clip.build(tmp_path_factory.mktemp('clip') / 'tiny')}"


def write(folder: Path, count: int, brightest: int, seed: int = 0) -> Path:
    generator = np.random.default_rng(seed)
    folder.mkdir()
    for number in range(1, count + 1):
        levels = generator.integers(0, brightest, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(levels).save(folder / f"{number}.png")
    return folder


def add(folder: Path, spec: str, name: str = "others", limit: int | None = None) -> ReferenceSet:
    prompts = {str(number): f"prompt {number % 5}" for number in range(1, 100)}
    return sets.add(name, FolderSource(folder, prompts), {"images": str(folder)}, [spec], "cpu", limit)


def run_of(folder: Path) -> RunImages:
    names = sorted(path.name for path in folder.iterdir())
    rows = [Generation(name, name, f"prompt {number}", 0, name) for number, name in enumerate(names)]
    return RunImages(folder, (*rows, Generation("lost", "lost", "prompt 3", 0, error="not in the folder")))


def measure(images: RunImages, name: str = "others") -> Distance:
    (found,) = compare.distances(images.folder, images.records, compare.load_sets([name], "cpu"), "cpu")
    return found


def test_a_set_with_its_prompts_and_where_it_comes_from(tmp_path: Path, spec: str, cache: Path) -> None:
    made = add(write(tmp_path / "others", 12, 255), spec)
    assert made == sets.get("others")
    assert sets.names() == ["others"]
    assert made.settings == {"images": str(tmp_path / "others"), "limit": None}
    assert [place.name for place in made.complete] == [slug(OpenClip(spec.removeprefix("clip:"), "cpu"))]
    prompts = [row["prompt"] for row in read_jsonl(cache / "references" / "others" / "prompts.jsonl")]
    assert sorted(prompts) == [f"prompt {number}" for number in range(5)]


def test_other_extractors_may_follow_but_no_other_images(tmp_path: Path, spec: str) -> None:
    folder = write(tmp_path / "others", 6, 255)
    other = f"clip:{tiny_clip.build(tmp_path / 'second', seed=1)}"
    add(folder, spec)
    assert len(add(folder, other).complete) == 2
    with pytest.raises(UserError, match=r"made of something else(.|\n)*limit"):
        add(folder, spec, limit=3)


def test_a_distance_is_between_equal_numbers_and_has_a_floor(tmp_path: Path, spec: str) -> None:
    theirs = add(write(tmp_path / "others", 30, 255), spec)
    near, far = (measure(run_of(write(tmp_path / str(b), 20, b, seed=1))) for b in (250, 60))
    assert (near.n, near.n_run, near.n_reference, near.n_self_distance) == (20, 20, 30, 15)
    assert near.formats == {"run": {"PNG": 20}, "reference": {"PNG": 30}}
    assert (near.prompts, near.common_prompts) == (20, 5)
    assert near.metric == OpenClip(spec.removeprefix("clip:"), "cpu").distances["rbf"]
    assert not near.indicative
    assert near.self_distance > 0
    assert near.value < far.value
    assert far.value > 10 * far.self_distance
    features = store.load(theirs.complete[0])
    assert near.self_distance == pytest.approx(rbf(sample(features, 15), sample(features, 15, start=15)))


def test_a_small_run_is_compared_with_as_many_of_the_set(tmp_path: Path, spec: str) -> None:
    add(write(tmp_path / "others", 30, 255), spec)
    found = measure(run_of(write(tmp_path / "run", 5, 255, seed=1)))
    assert (found.n, found.n_self_distance) == (5, 5)


def test_nothing_is_computed_twice(tmp_path: Path, spec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write(tmp_path / "others", 10, 255)
    add(folder, spec)
    images = run_of(write(tmp_path / "run", 6, 255, seed=1))
    first = measure(images)

    def never(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(OpenClip, "extract", never)
    monkeypatch.setattr(compare, "distance", never)
    add(folder, spec)
    assert measure(images) == first


def test_another_image_in_the_run_is_measured_anew(tmp_path: Path, spec: str) -> None:
    add(write(tmp_path / "others", 10, 255), spec)
    images = run_of(write(tmp_path / "run", 6, 255, seed=1))
    first = measure(images)
    Image.new("RGB", (32, 32), "red").save(tmp_path / "run" / "1.png")
    assert measure(images).value != first.value


@pytest.mark.parametrize(("enough", "indicative"), [(6, False), (7, True)])
def test_few_images_make_a_frechet_distance_indicative(
    enough: int, indicative: bool, tmp_path: Path, spec: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert compare.INDICATIVE_BELOW == 2048
    monkeypatch.setattr(compare, "INDICATIVE_BELOW", enough)
    add(write(tmp_path / "others", 8, 255), spec)
    (loaded,) = compare.load_sets(["others"], "cpu")
    loaded.extractor.distances = {"frechet": "fid", "rbf": "cmmd"}
    images = run_of(write(tmp_path / "run", 6, 255, seed=1))
    fid, cmmd = compare.distances(images.folder, images.records, [loaded], "cpu")
    assert (fid.metric, fid.indicative) == ("fid", indicative)
    assert (cmmd.metric, cmmd.indicative) == ("cmmd", False)


def test_names_and_what_is_missing(tmp_path: Path, spec: str) -> None:
    with pytest.raises(UserError, match="glmkit reference add others"):
        sets.get("others")
    with pytest.raises(UserError, match="name of a folder"):
        add(tmp_path, spec, name="../others")
    with pytest.raises(UserError, match="no image could be read"):
        add(tmp_path / "empty", spec, name="empty")
    with pytest.raises(UserError, match="did you mean 'empty'"):
        sets.get("emtpy")
    with pytest.raises(UserError, match="empty is not finished"):
        compare.load_sets(["empty"], "cpu")


def test_an_extractor_that_changed_is_refused(tmp_path: Path) -> None:
    clip = tiny_clip.build(tmp_path / "clip")
    add(write(tmp_path / "others", 4, 255), f"clip:{clip}")
    tiny_clip.build(tmp_path / "changed", seed=1)
    (tmp_path / "changed" / "open_clip_model.safetensors").replace(clip / "open_clip_model.safetensors")
    with pytest.raises(UserError, match="not what the reference set others was made with"):
        compare.load_sets(["others"], "cpu")


def test_one_image_has_no_distance(tmp_path: Path, spec: str) -> None:
    add(write(tmp_path / "others", 4, 255), spec)
    with pytest.raises(UserError, match="needs more images"):
        measure(run_of(write(tmp_path / "run", 1, 255)))
