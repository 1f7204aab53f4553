"""dpg: DPG-Bench with answers read as the benchmark does; questions, images and score in `suites.shared.dpg`."""

from glmkit.evaluation.suites.shared.dpg import Dpg

SUITE = Dpg(is_exact=True)
