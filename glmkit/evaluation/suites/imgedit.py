"""imgedit: ImgEdit-Bench, basic suite; edits, rubrics, images and score in `suites.shared.imgedit`."""

from glmkit.evaluation.suites.shared.imgedit import ImgEdit

SUITE = ImgEdit()
