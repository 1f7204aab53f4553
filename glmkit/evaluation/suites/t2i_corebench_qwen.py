"""t2i-corebench-qwen: T2I-CoReBench, asked and read as Qwen models are; see `suites.shared.t2i_corebench`."""

from glmkit.evaluation.suites.shared.t2i_corebench import T2ICoreBench

SUITE = T2ICoreBench(of_qwen=True)
