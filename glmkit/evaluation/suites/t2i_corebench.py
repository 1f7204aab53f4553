"""t2i-corebench: T2I-CoReBench, asked and read as Gemini is; see `suites.shared.t2i_corebench`."""

from glmkit.evaluation.suites.shared.t2i_corebench import T2ICoreBench

SUITE = T2ICoreBench(of_qwen=False)
