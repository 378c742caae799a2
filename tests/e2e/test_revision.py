"""`model.revision`: refused where there is none, recorded where there is one."""

from __future__ import annotations

import json

from cl_bench.config.file import load_config
from cl_bench.experiment.resolve import resolve_file
from cl_bench.identity.bindings import base_settings, run_settings
from cl_bench.store.experiments import write_experiment
from tests.e2e.conftest import Bench


def test_a_revision_of_a_local_folder_is_one_fault_among_others(bench: Bench) -> None:
    (bench.root / "data/trace/FOMC/train.json").write_text("[]")
    code, _, err = bench.run("run", "tiny.yaml", "-o", "model.revision=v1")
    assert code == 2
    model = load_config(str(bench.config)).model.path
    assert err.count(f"model.revision: 'v1' of '{model}': only models of the hub") == 1
    assert "train.json: has no rows" in err
    assert not bench.results.exists()


def test_the_revision_is_part_of_what_a_folder_is_bound_to(bench: Bench) -> None:
    bench.write_config(model={"path": "owner/name", "revision": "v1"})
    experiment = resolve_file(str(bench.config))
    for record in (
        run_settings(experiment, experiment.runs[0], bench.results),
        base_settings(experiment, bench.results),
    ):
        assert record["model"]["revision"] == "v1"


def test_the_report_names_it(bench: Bench) -> None:
    bench.write_config(methods=["ori"], stages=[{"task": "FOMC"}])
    bench.must("run", "tiny.yaml")
    file = bench.results / "experiment.json"
    data = json.loads(file.read_text())
    data["config"]["model"] |= {"path": "owner/name", "revision": "v1"}
    write_experiment(bench.results, data)
    assert "Model `owner/name@v1`, 1 stage, " in bench.must("report", "results/tiny")
