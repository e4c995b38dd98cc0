# Thin on purpose: what a step does is written in hybridrec/study/__main__.py and in the notebooks.
# Stamps live outside git, so a fresh clone always runs and an unchanged tree never does.

EXPERIMENT ?= ml-100k
ALL        := ml-100k ml-latest-small-2016 book-crossing
PYTHON     ?= python3.11
VENV       ?= .venv
NOTEBOOKS  := 01_data 02_baselines 03_user_triage 04_llm_prompting 05_evaluation 06_cost 07_taught_model 08_allocation
# What an expert asks next, in notebooks/appendix: 04a after 04, and nothing after it needs it.
APPENDIX   := 03a_triage_rules 04a_written_answers 04b_histories_and_lists 05a_published_claims 05b_whole_lists 05c_larger_models_and_time
source      = notebooks/$(if $(filter $(1),$(APPENDIX)),appendix/)$(1).ipynb

# Whoever clones this may have blanks, quotes or accents in the way to it ("My Documents"). So every path below is
# relative to this folder and none can be made to lead out of it: what is removed is always within. What may be given
# as an absolute path (PYTHON, VENV) is quoted for the shell; a ~ before it stays one.
override SCRATCH := .stamps/scratch
override STAMPS   = .stamps/$(EXPERIMENT)
quoted   = $(subst '~/,~/','$(subst ','\'',$(1))')
PY      := $(call quoted,$(VENV)/bin/python)

# Blanks ("prompts 2.py", made by a synchronised folder), colons ("qwen2.5:7b.jsonl") and # in the names of files would
# mean something else to make.
files    = $(shell find $(1) 2>/dev/null | sed 's/[ :\#]/\\&/g')
MODULE  := $(call files,hybridrec -type f \( -name '[!.]*.py' -o -name '[!.]*.toml' \))
ANSWERS := $(call files,data/recordings -type f \( -name '[!.]*.jsonl' -o -name '[!.]*.jsonl.gz' -o -name '[!.]*.sqlite' \) ! -name '*.live.*')
ADAPTERS := $(call files,data/adapters -type f -name card.json)

# Elsewhere (make -f far/Makefile clean) the same commands would remove what somebody else has there.
ifeq ($(wildcard hybridrec/study/paths.py),)
$(error this is not the folder of the Makefile: stand in it, or say make -C folder)
endif
ifeq ($(strip $(VENV)),)
$(error VENV is empty: leave it out, or name the folder of the environment)
endif

# An experiment's name becomes part of paths, and of commands. It is looked at before anything in it is carried out.
override LETTERS := a b c d e f g h i j k l m n o p q r s t u v w x y z A B C D E F G H I J K L M N O P Q R S T U V W X Y Z
override STRANGE := $(value EXPERIMENT)
$(foreach one,$(LETTERS) 0 1 2 3 4 5 6 7 8 9 - _ .,$(eval override STRANGE := $$(subst $(one),,$$(STRANGE))))
ifneq ($(words $(value EXPERIMENT))$(STRANGE)$(filter .% -%,$(value EXPERIMENT)),1)
$(error EXPERIMENT is the name of a file in notebooks/experiments, without .toml: letters, digits, - _ and .)
endif

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.SUFFIXES:
.PHONY: help env data models estimate reproduce reproduce-all class lab overview teach teach-ways rivals hear-out seeds fingerprint record pairs batch import compact notebooks \
        site site-check test test-scale bench lint lock clean FORCE

help:  ## what there is to make (this list)
	@sed -n 's/^\([a-z-]*\):.*##/\1 —/p' Makefile | awk -F ' — *' '{ printf "  make %-13s %s\n", $$1, $$2 }'
	@echo "Another experiment: make reproduce EXPERIMENT=name, for notebooks/experiments/name.toml."

# --- the environment -------------------------------------------------------------------------------------------------

env: .stamps/env  ## build .venv from requirements.lock (PYTHON=python3.11)

# torch goes first and without CUDA: the CPU build where pip can see it, else through uv, which knows where it lies;
# macOS and Windows have a CPU build under the plain name. The lock then finds torch satisfied.
INSTALL    := $(PY) -m pip install --quiet
TORCH       = torch==$(shell sed -n 's/^torch==\([^ ]*\).*/\1/p' requirements.lock)
TORCH_Linux = $(INSTALL) uv && $(PY) -m uv pip install --python $(PY) --no-deps --torch-backend cpu "$(TORCH)"
TORCH_else  = $(INSTALL) --no-deps "$(TORCH)"

.stamps/env: requirements.lock pyproject.toml $(shell test -e $(PY) || echo FORCE)
	@command -v $(call quoted,$(PYTHON)) >/dev/null || \
	  { echo no $(call quoted,$(PYTHON)) "here: install Python 3.11, or set PYTHON=" >&2; exit 1; }
	$(call quoted,$(PYTHON)) -m venv $(call quoted,$(VENV))
	$(INSTALL) --no-deps "$(TORCH)+cpu" 2>/dev/null || { $(or $(TORCH_$(shell uname -s)),$(TORCH_else)); }
	$(INSTALL) -r requirements.lock
	$(INSTALL) --no-deps --no-build-isolation -e .
	@mkdir -p $(@D) && touch $@

# Where torch came with CUDA, its packages are struck out: the lock is for the CPU build everywhere. So is this package,
# which the extra "study" names.
#
# Ray and DuckDB are pinned in a lock of their own, which `make env` does not read: whoever has one machine needs neither.
# It holds what they need beyond requirements.lock, so that both together are one environment.
COMPILE = CUSTOM_COMPILE_COMMAND="make lock" $(PY) -m piptools compile --quiet --strip-extras --unsafe-package pip --annotation-style line --no-emit-index-url --no-emit-find-links --no-emit-trusted-host
lock: .stamps/env  ## make the requirements*.lock anew from pyproject.toml (keeps the pins that still fit)
	$(COMPILE) --extra study --extra test --extra lint --extra site --extra lab --extra lock --output-file requirements.lock pyproject.toml
	@sed -i.old -E -e 's/^(torch==[^+ ]*)\+cpu/\1/' -e '/^(nvidia|cuda)-|^triton==|^hybridrec @/d' -e 's/hybridrec, (hybridrec \(pyproject)/\1/' requirements.lock && rm requirements.lock.old
	$(COMPILE) --extra ray --extra duckdb --constraint requirements.lock --output-file requirements-scale.lock pyproject.toml
	@sed -i.old -e '/via -c requirements[.]lock/d' requirements-scale.lock && rm requirements-scale.lock.old

# --- the study -------------------------------------------------------------------------------------------------------

data: .stamps/env  ## fetch and verify the experiment's dataset
	$(PY) -m hybridrec.study data $(EXPERIMENT)

models: .stamps/env  ## fetch, verify and convert the experiment's language model, and the sentence encoder
	$(PY) -m hybridrec.study model $(EXPERIMENT)
	$(PY) -m hybridrec.study encoder $(EXPERIMENT)

# What the language models would be asked is told first. Above the bounds of the experiment (consent_above_usd,
# consent_above_minutes) nothing is asked unless YES=1 is given.
estimate: .stamps/env  ## say what the language models would be asked, and what that would cost (asks nothing)
	$(PY) -m hybridrec.study estimate $(EXPERIMENT)

reproduce: $(STAMPS)/08_allocation $(APPENDIX:%=$(STAMPS)/%)  ## run the notebooks, as far as something changed, and print the four answers
	@$(if $(RAN),,echo "nothing to do: results/$(EXPERIMENT) is up to date.")
	@$(PY) -m hybridrec.study summary $(EXPERIMENT)

# One dataset after the other: each fills both cores by itself.
reproduce-all: .stamps/env  ## reproduce the experiments on all three datasets, then the overview
	@for name in $(ALL); do "$(MAKE)" --no-print-directory reproduce EXPERIMENT=$$name || exit 1; done
	@"$(MAKE)" --no-print-directory overview

class:  ## the whole study in minutes, on a subset of the users (docs/teaching.md)
	@"$(MAKE)" --no-print-directory reproduce EXPERIMENT=class

# Only this machine can reach it. PORT=8889 if the usual one is in use.
PORT := 8888
lab: .stamps/env  ## read and run the notebooks and the exercises in JupyterLab
	$(PY) -m jupyterlab --ip=127.0.0.1 --port=$(PORT) --ServerApp.root_dir=. --LabApp.default_url=/lab/tree/notebooks

# A killed run goes on from its last checkpoint. DEVICE=cuda where there is a GPU.
DEVICE := cpu
teach: $(STAMPS)/01_data  ## teach the language model on ratings of users who are never routed (ml-100k: 99 minutes on two cores)
	$(PY) -m hybridrec.study teach $(EXPERIMENT) --device $(DEVICE)

teach-ways: $(STAMPS)/01_data  ## compare ways to teach, on the folds that decide (minutes on a GPU, a day without)
	$(PY) -m hybridrec.study teach-ways $(EXPERIMENT) --device $(DEVICE)

rivals: $(STAMPS)/03_user_triage  ## train recommenders for the worst served, and judge whom they serve (minutes)
	$(PY) -m hybridrec.study rivals $(EXPERIMENT)

# Minutes for each way to ask, on one core; what was heard out before is replayed.
hear-out: $(STAMPS)/04_llm_prompting  ## hear out a sample of the answers that our stop rule ended (half an hour on two cores)
	$(PY) -m hybridrec.study hear-out $(EXPERIMENT)

# What is done is found again by its fits and answers; the overview shows where the seeds differ.
seeds: .stamps/env  ## judge protocol cross on a second seed of its folds, too (fits and, for weak users, answers)
	$(PY) -m hybridrec.study seeds $(EXPERIMENT)

# What `make reproduce` and `make test` compare with; commit it together with the results that rest on these fits.
fingerprint: $(STAMPS)/02_baselines  ## make this machine's fits those that others are compared with (data/fits)
	$(PY) -m hybridrec.study fingerprint $(EXPERIMENT)

overview: .stamps/env  ## put the results of all experiments side by side (results/README.md)
	$(PY) -m hybridrec.study overview

# One stamp a notebook. It waits for the notebook before it, and is stale when its results or its tables were deleted:
# later notebooks read those. Which notebook writes which table is said in hybridrec/study/tables.py alone.
WRITTEN := $(shell sed -n 's/^    "\(.*\)": "\(.*\)",$$/\2:\1/p' hybridrec/study/tables.py)
written  = results/$(EXPERIMENT)/$(1).ipynb $(patsubst $(1):%,data/tables/$(EXPERIMENT)/%.parquet,$(filter $(1):%,$(WRITTEN)))
lacking  = $(filter-out $(wildcard $(written)),$(written))
define stamp
$(STAMPS)/$(1): $(call source,$(1)) $(2:%=$(STAMPS)/%) $(3) $(MODULE) notebooks/experiments/$(EXPERIMENT).toml .stamps/env $(if $(lacking),FORCE)
	@$$(eval RAN := yes)$(PY) -m hybridrec.study run $(EXPERIMENT) $(1) $(if $(filter 1,$(YES)),--yes)
	@mkdir -p $$(@D) && touch $$@
endef
$(eval $(call stamp,01_data,,))
$(eval $(call stamp,02_baselines,01_data,))
$(eval $(call stamp,03_user_triage,02_baselines,))
$(eval $(call stamp,03a_triage_rules,03_user_triage,))
$(eval $(call stamp,04_llm_prompting,03_user_triage,$(ANSWERS)))
$(eval $(call stamp,04a_written_answers,04_llm_prompting,))
$(eval $(call stamp,04b_histories_and_lists,04_llm_prompting,))
$(eval $(call stamp,05_evaluation,04_llm_prompting,data/published_table2.csv))
$(eval $(call stamp,05a_published_claims,05_evaluation,data/published_table2.csv))
$(eval $(call stamp,05b_whole_lists,05_evaluation,))
$(eval $(call stamp,05c_larger_models_and_time,05_evaluation,))
$(eval $(call stamp,06_cost,05_evaluation,data/prices.toml))
$(eval $(call stamp,07_taught_model,06_cost,$(ANSWERS) $(ADAPTERS)))
$(eval $(call stamp,08_allocation,07_taught_model,data/prices.toml))

notebooks/experiments/%.toml:
	@echo "no experiment" $(call quoted,$*). "There are:" $(call quoted,$(basename $(notdir $(wildcard $(@D)/*.toml)))). >&2; exit 1

# Only 04 and 07 ask models: the others read their tables, so they need not know that these ran live.
record: $(STAMPS)/03_user_triage  ## ask the language models everything anew, and all that follows (docs/running.md says how long)
	rm -f $(STAMPS)/04_llm_prompting $(STAMPS)/05_evaluation $(STAMPS)/06_cost $(STAMPS)/07_taught_model $(STAMPS)/08_allocation
	HYBRIDREC_LLM=live "$(MAKE)" --no-print-directory $(STAMPS)/04_llm_prompting
	@"$(MAKE)" --no-print-directory $(STAMPS)/06_cost
	HYBRIDREC_LLM=live "$(MAKE)" --no-print-directory $(STAMPS)/07_taught_model
	@"$(MAKE)" --no-print-directory reproduce

pairs: $(STAMPS)/01_data  ## write the pairs that a recommender of your own has to score (docs/own-ratings.md)
	$(PY) -m hybridrec.study pairs $(EXPERIMENT)

batch: $(STAMPS)/01_data  ## write what an endpoint has not answered yet as batch files (docs/endpoints.md)
	$(PY) -m hybridrec.study batch $(EXPERIMENT)

# A file whose name has blanks stands in quotes of its own: FILES="'my results.jsonl' errors.jsonl".
import: $(STAMPS)/01_data  ## record a batch's answers (FILES="results.jsonl errors.jsonl")
	$(PY) -m hybridrec.study import $(EXPERIMENT) $(FILES)

compact: .stamps/env  ## fold new recordings into the compact file that is committed
	$(PY) -m hybridrec.study compact $(EXPERIMENT)

# The stamps are touched in order: the copies have the notebooks' own code, so nothing has to run again.
notebooks: $(if $(filter ml-100k,$(EXPERIMENT)),reproduce,only-the-default)  ## put the executed notebooks in place, ready to commit
	@$(foreach one,$(sort $(NOTEBOOKS) $(APPENDIX)),cp results/$(EXPERIMENT)/$(one).ipynb $(call source,$(one)) && touch $(STAMPS)/$(one) &&) true

.PHONY: only-the-default
only-the-default:
	@echo "committed notebooks are those of ml-100k: leave EXPERIMENT out." >&2; exit 1

# Made from the notebooks as they were executed: nothing is run.
# REPOSITORY=https://github.com/name/repository: notebooks' pages have buttons that run them elsewhere.
site: .stamps/env  ## make the site for reading without installing (_site/html/index.html)
	rm -rf _site
	$(PY) -m sphinx --quiet --fail-on-warning --keep-going -c docs/site $(if $(REPOSITORY),-D $(call quoted,repository=$(REPOSITORY))) -d _site/doctrees . _site/html

site-check: site data  ## look at every page of the site, and run a notebook in JupyterLab, in a real browser (chromium)
	$(PY) -m pytest tests -m browser

# --- checks ----------------------------------------------------------------------------------------------------------

lint: .stamps/env  ## style and docstrings (ruff), types (mypy), which module may import which (import-linter)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(PY) -c 'from importlinter.cli import lint_imports_command; lint_imports_command()'

# A plain `pytest` leaves out what is slow (about a minute); here -m takes the place of that choice. The tests of a file
# run one after the other in one process; WORKERS such processes take the files in the order they are named.
WORKERS := 2
JUDGES  := moved_fits class exercises results
PYTEST   = OMP_NUM_THREADS=1 $(PY) -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder --durations=15
REPLAYED = HYBRIDREC_SCRATCH=$(SCRATCH) HYBRIDREC_LLM=replay HYBRIDREC_PROGRESS=off $(PY) -m pytest --nbval-lax --nbval-current-env --nbval-cell-timeout=1200

test: lint models  ## lint, all unit tests, then the notebooks for real, replaying the recordings (results stay untouched)
	HYPOTHESIS_PROFILE=$${HYPOTHESIS_PROFILE:-thorough} $(PYTEST) tests -m "not fresh and not browser and not exercises"
	@rm -rf $(SCRATCH) && mkdir -p $(SCRATCH)
	$(REPLAYED) $(foreach one,$(NOTEBOOKS),$(call source,$(one)))
	$(REPLAYED) -n $(WORKERS) --dist loadfile $(foreach one,$(APPENDIX),$(call source,$(one)))
	@HYBRIDREC_SCRATCH=$(SCRATCH) $(PY) -m hybridrec.study fits ml-100k
	HYBRIDREC_SCRATCH=$(SCRATCH) HYBRIDREC_FRESH=$(SCRATCH) $(PYTEST) $(JUDGES:%=tests/test_%.py) -m "fresh or exercises"

# Ray and DuckDB lie apart from the environment, as peers do.
test-scale: .stamps/env .stamps/engines  ## the tests that need Ray and DuckDB (minutes)
	PYTHONPATH="$$PWD/.stamps/engines" $(PY) -m pytest tests/test_scale_ray.py tests/test_scale_duck.py -m "slow or not slow"

.stamps/engines: requirements-scale.lock .stamps/env
	rm -rf $@ $@.partial
	$(INSTALL) --no-deps --target $@.partial -r $< && mv $@.partial $@

# Peers lie apart from the environment, and are found in it for this command alone.
bench: .stamps/env .stamps/peers  ## measure ours beside its peers (ONLY="metrics triage llm local growth"; 41 minutes)
	PYTHONPATH=.stamps/peers $(PY) benchmarks/run.py $(ONLY)

.stamps/peers: benchmarks/requirements.txt .stamps/env
	rm -rf $@ $@.partial
	$(INSTALL) --no-deps --target $@.partial -r $< && mv $@.partial $@

# data/cache stays: fits are found by the hash of all that went into them, so they cannot be stale.
clean:  ## remove stamps, tables and tools' caches; never results, data, models, fits or recordings
	rm -rf .stamps _site data/tables .pytest_cache .ruff_cache .mypy_cache .import_linter_cache .hypothesis
