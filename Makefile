# make demo   fine-tune nano on posters, evaluate before and after, write reports/demo/index.html
# make test   ruff, mypy and the tests; make test-all also those that are marked thorough
# make nano   train nano from nothing, hours on a GPU, into reports/nano/model; GPUS=2 for two of them
# All set up .venv first, and only when pyproject.toml or constraints.txt changed since the last time.

PYTHON ?= python3
WORKERS ?= 2
LIMIT ?= 32
GPUS ?= 1

BIN := .venv/bin
READY := .venv/.ready
DEMO := reports/demo
NANO := $(wildcard data/nano/*/*.safetensors)
# What was finished with another nano or recipe goes; what was only begun stays, to be continued.
AFRESH = @test ! -e $@ || rm -rf $(@D)
EVAL := $(BIN)/glmkit eval --suite text-render --split retro --limit $(LIMIT) --reference posters

NANO_PARTS := vae semantic_vq autoregressive decoder

.PHONY: demo nano test test-all lint clean
.DELETE_ON_ERROR:

demo: $(DEMO)/index.html
	@echo
	@echo "The comparison is ready: open $(abspath $<)"

# Each part goes on where it was stopped, and is left alone when it is finished.
nano: $(READY)
	for part in $(NANO_PARTS); do \
	  $(BIN)/torchrun --standalone --nproc_per_node $(GPUS) -m glmkit pretrain recipes/nano/pretrain/$$part.yaml || exit 1; \
	done

test: TESTS := -m "not thorough"
test test-all: lint
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(WORKERS) --dist worksteal $(TESTS)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python tests/lint/words.py
	$(BIN)/codespell

$(DEMO)/index.html: export GLMKIT_CACHE := $(abspath $(DEMO)/cache)

# A command that is stopped half-way goes on where it stopped when make runs it again;
# the files named here appear only when their step is complete.
$(DEMO)/cache/.posters: | $(READY)
	$(BIN)/glmkit reference add posters --images data/posters --features efficientnet-lite0
	@mkdir -p $(@D) && touch $@

$(DEMO)/before/summary.json: $(NANO) $(DEMO)/cache/.posters
	$(AFRESH)
	$(EVAL) --name before --run $(@D)

$(DEMO)/poster_lora/.done: recipes/nano/poster_lora.yaml $(NANO) | $(READY)
	$(AFRESH)
	$(BIN)/glmkit finetune $< output=$(@D)
	@touch $@

# How much of what the decoder learnt: the more, the nearer the style, and the thinner the letters. What the AR model
# learnt is left out: it repeats lines.
# Other seeds than those of the evaluation, so that the choice is not made by the images that are reported.
$(DEMO)/sweep/recommended.txt: $(DEMO)/poster_lora/.done
	$(AFRESH)
	$(BIN)/glmkit sweep --suite text-render --split retro --limit $(LIMIT) --seeds 1 --run $(@D) \
	  --adapter $(<D)/adapter/decoder --weights 0.5:1:0.25

$(DEMO)/after/summary.json: $(DEMO)/sweep/recommended.txt $(DEMO)/cache/.posters
	$(AFRESH)
	$(EVAL) $$(cat $<) --name after --run $(@D)

$(DEMO)/index.html: $(DEMO)/before/summary.json $(DEMO)/after/summary.json
	$(BIN)/glmkit report $(DEMO)/before $(DEMO)/after --out $@

$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/pip || $(PYTHON) -m venv .venv
	$(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11) and "glmkit needs Python 3.11 or newer: make PYTHON=python3.11")'
	@echo "Installing into .venv (several GB and a few minutes the first time)"
	$(BIN)/python -m pip install --constraint constraints.txt --editable ".[eval,train,dev]"
	-$(BIN)/python -m pip install --no-deps rapidocr-onnxruntime==1.4.4 # for Python up to 3.12; tests without it are skipped
	@touch $@

clean:
	rm -rf $(DEMO) .mypy_cache .pytest_cache .ruff_cache
